// Processes, denials, network, timeline: from the state to the page.

import { clock, element, foreign, last, plain, plainWords, seconds, words } from "./text.js";

const MOST = 200;
const $ = (id) => document.getElementById(id);
const REFUSED = new Set(["deny", "kill"]);

function fill(id, rows, empty = `no-${id}`) {
  $(id).replaceChildren(...rows);
  $(empty).hidden = rows.length > 0;
}

function count(id, number) {
  const badge = $(`${id}-count`);
  badge.textContent = String(number);
  badge.hidden = !number;
}

// Processes ------------------------------------------------------------------------------------------------------------

export function showProcesses(processes, now) {
  const all = [...processes].sort((a, b) => a.started - b.started);
  const living = all.filter((each) => each.ended === null);
  const kept = living.concat(all.filter((each) => each.ended !== null).slice(-Math.max(0, MOST - living.length))).slice(0, MOST);
  kept.sort((a, b) => a.started - b.started);
  const rows = new Map(kept.map((each) => [each, []]));
  const tops = [];
  for (const each of kept) {
    const above = kept.findLast((other) => other.pid === each.ppid && other !== each && other.started <= each.started);
    (above ? rows.get(above) : tops).push(each);
  }
  const seen = new Set();
  const draw = (each, depth) => {
    seen.add(each);
    const row = element("li", each.ended === null ? "alive" : "over", "", { role: "treeitem", "aria-level": depth + 1 });
    const line = element("div", "process");
    line.append(element("span", "dot", "", { "aria-hidden": "true" }));
    line.append(element("span", "code grow", each.argv.length ? words(each.argv, 160) : foreign(last(each.exe))));
    line.append(element("span", "unseen", each.ended === null ? ", running" : ", ended"));
    line.append(element("span", "quiet number", String(each.pid), { title: `process ${each.pid}` }));
    const time = element("time", "quiet number time", seconds((each.ended ?? now) - each.started));
    if (each.ended === null) time.dataset.since = each.started;
    line.append(time);
    line.title = plain(each.exe);
    row.append(line);
    const below = rows.get(each).filter((child) => !seen.has(child));
    if (below.length && depth < 40) row.append(element("ul", "", "", { role: "group" }));
    for (const child of below) (depth < 40 ? row.lastChild : row).append(draw(child, depth + 1));
    return row;
  };
  fill("processes", tops.map((each) => draw(each, 0)));
  count("processes", living.length);
}

// Decisions ------------------------------------------------------------------------------------------------------------

export function what(line) {
  const box = element("span", "code what");
  if (line.kind === "exec" && line.argv?.length) box.append(words(line.argv, 200));
  else box.append(foreign(line.target));
  if (line.host && !String(line.target).includes(line.host)) box.append(" ", element("span", "quiet", foreign(line.host, "", 120)));
  return box;
}

const WHO = {
  "rule": (line) => ["rule ", foreign(String(line.rule).split(" # ")[0], "code", 120)],
  "no-rule": () => ["no rule allows it"],
  "verdict": (line) => ["answered by ", foreign(line.by || "whoever was asked", "", 60)],
  "timeout": () => ["nobody answered in time"],
  "nobody-listens": () => ["nobody was there to ask"],
};

function why(line) {
  const box = element("p", "why quiet");
  box.append(...(WHO[line.cause]?.(line) ?? [foreign(line.cause, "", 60)]));
  if (line.reason) box.append(" · ", foreign(line.reason, "", 200));
  return box;
}

function copyButton(text) {
  const button = element("button", "small", "Copy", { type: "button", "aria-label": `Copy ${plain(text, 100)}` });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Press Ctrl-C";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

function fix(remedy) {
  const box = element("div", "fix");
  if (remedy === null || remedy === undefined) return box;
  if (remedy.change !== "add") {
    box.append("To allow it, take out of ", element("span", "code", foreign(remedy.field)), ": ", foreign(remedy.value, "code", 200));
    return box;
  }
  box.append(element("code", "", foreign(remedy.flag, "", 300)), copyButton(remedy.flag));
  if (remedy.opens) box.append(element("p", "quiet opens", foreign(remedy.opens, "", 240)));
  return box;
}

// The same denial many times is one row.
export function showDenials(denials) {
  const groups = new Map();
  for (const line of denials) {
    const key = JSON.stringify([line.kind, line.target, line.argv, line.cause, line.reason]);
    const group = groups.get(key) ?? { line, times: 0 };
    groups.delete(key);
    groups.set(key, { line, times: group.times + 1 });
  }
  const rows = [...groups.values()].reverse().slice(0, MOST).map(({ line, times }) => {
    const row = element("li");
    const head = element("div", "line");
    head.append(element("span", "kind refused", plain(line.kind, 20)), what(line));
    if (times > 1) head.append(element("span", "count", `×${times}`));
    head.append(element("time", "quiet number", clock(line.time)));
    row.append(head, why(line), fix(line.remedy));
    return row;
  });
  fill("denials", rows);
  count("denials", denials.length);
}

export function showNetwork(rows) {
  const all = [...rows].sort((a, b) => b.last - a.last).slice(0, MOST);
  fill("network", all.map((row) => {
    const line = element("tr", row.denied && !row.allowed ? "refused" : "");
    const name = element("th", "code", foreign(row.host || (row.port ? row.ip : row.target), "", 120), { scope: "row" });
    if (row.kind !== "connect") name.append(" ", element("span", "quiet", plain(row.kind, 12)));
    line.append(name, element("td", "code", foreign(row.port ? row.ip : "", "", 80)));
    line.append(element("td", "number", plain(row.port, 8)));
    line.append(element("td", "number", row.allowed ? String(row.allowed) : "·"));
    line.append(element("td", `number ${row.denied ? "bad" : ""}`, row.denied ? String(row.denied) : "·"));
    return line;
  }));
  $("network-scroll").hidden = !all.length;
  count("network", all.length);
}

// Timeline -------------------------------------------------------------------------------------------------------------

function eventText(event) {
  const by = event.by ? [" by ", foreign(event.by, "", 60)] : [];
  const about = event.question ? [": ", what(event.question)] : [];
  const said = event.answer?.reason ? [" · ", foreign(event.answer.reason, "", 200)] : [];
  const verdict = event.answer ? ` ${plain(event.answer.verdict, 10)}` : "";
  if (event.what === "answered") return [`Answered${verdict}`, ...by, ...about, ...said];
  if (event.what === "withdrawn") return ["Question withdrawn", ...about];
  if (event.what === "expired") return ["Nobody answered in time", ...about];
  return [{ paused: "Paused", resumed: "Resumed", killed: "Killed" }[event.what] ?? plain(event.what, 20), ...by];
}

export function showTimeline(decisions, events) {
  const all = decisions.map((line) => ({ time: line.time, line })).concat(events.map((event) => ({ time: event.time, event })));
  all.sort((a, b) => b.time - a.time);
  fill("timeline", all.slice(0, MOST).map(({ time, line, event }) => {
    const row = element("li");
    const head = element("div", "line");
    head.append(element("time", "quiet number", clock(time)));
    if (event) {
      head.append(element("span", "grow", ""));
      head.lastChild.append(...eventText(event));
      row.className = "event";
    } else {
      const refused = REFUSED.has(line.decision);
      head.append(element("span", `kind ${refused ? "refused" : ""}`, plain(line.kind, 20)), what(line));
      if (refused) head.append(element("span", "verdict bad", line.decision === "kill" ? "killed" : "denied"));
      else if (line.by) head.append(element("span", "verdict good", "allowed"));
      head.title = line.argv?.length ? plainWords(line.argv, 300) : plain(line.target);
    }
    row.append(head);
    return row;
  }));
}
