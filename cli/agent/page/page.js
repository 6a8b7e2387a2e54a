// The page of one session. Everything that the session sends is data: it becomes text, by the functions of text.js only.

import { clock, element, foreign, last, plain, plainWords, seconds, words } from "./text.js";
import { showDenials, showNetwork, showProcesses, showTimeline } from "./lists.js";

const $ = (id) => document.getElementById(id);
const CALM = 400; // milliseconds in which a card that has just come, or moved, takes no click
const KEPT = 500;
const state = { decisions: [], denials: [], processes: [], events: [], network: new Map(), ended: null };
const cards = new Map();
let session = null;
let dirty = new Set();

history.replaceState(null, "", location.pathname); // the token is used up

// Talking to the server ------------------------------------------------------------------------------------------------

async function post(what, content = {}) {
  try {
    const reply = await fetch(what, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
    });
    if (!reply.ok) throw new Error(await reply.text());
    const data = await reply.json();
    if (!data.ok) throw new Error(data.error);
    banner("");
    return data;
  } catch (error) {
    banner(error instanceof TypeError ? "The server of this page is gone. Start it again: sandlock agent ui" : plain(error.message));
    return null;
  }
}

function banner(text) {
  $("banner").textContent = text;
  $("banner").hidden = !text;
}

let lost = 0;
const source = new EventSource("events");
source.onmessage = (message) => take(JSON.parse(message.data));
source.onopen = () => {
  clearTimeout(lost);
  lost = 0;
  banner("");
};
source.onerror = () => {
  lost ||= setTimeout(() => banner("The connection to sandlock is lost. What is shown may be old."), 1500);
};

function take(push) {
  switch (push.push) {
    case "state": begin(push.state); break;
    case "question": ask(push.question); break;
    case "answered": case "withdrawn": case "expired": settle(push); break;
    case "decision":
      add(state.decisions, push.decision);
      if ("remedy" in push.decision) add(state.denials, push.decision), touch("denials");
      if (push.destination) place(push.destination), touch("network");
      touch("timeline");
      break;
    case "processes": state.processes = push.processes; touch("processes"); break;
    case "event": add(state.events, push.event); touch("timeline"); break;
    case "paused": session.paused = push.paused; head(); break;
    case "end": session.ended = push.ended; session.result = push.result; session.is_gone = push.result === null; end(); break;
  }
}

function add(list, entry) {
  list.push(entry);
  if (list.length > KEPT) list.splice(0, list.length - KEPT);
}

function place(row) {
  state.network.set(JSON.stringify([row.kind, row.host, row.target]), row);
}

function begin(whole) {
  session = whole;
  for (const name of ["decisions", "denials", "processes", "events"]) state[name] = whole[name] ?? [];
  state.network.clear();
  (whole.network ?? []).forEach(place);
  const waiting = new Set(whole.pending.map((each) => each.id));
  for (const id of [...cards.keys()]) if (!waiting.has(id)) discard(id);
  whole.pending.forEach(ask);
  ["processes", "denials", "network", "timeline"].forEach(touch);
  head();
  if (session.ended) end();
}

// Drawn together, before the next frame
function touch(what) {
  if (!dirty.size) setTimeout(draw, document.hidden ? 300 : 60);
  dirty.add(what);
}

const DRAWN = {
  processes: () => showProcesses(state.processes, Date.now() / 1000),
  denials: () => showDenials(state.denials),
  network: () => showNetwork([...state.network.values()]),
  timeline: () => showTimeline(state.decisions, state.events),
};

function draw() {
  const names = dirty;
  dirty = new Set();
  for (const name of names) DRAWN[name]();
}

// The head -------------------------------------------------------------------------------------------------------------

function head() {
  $("command").replaceChildren(words(session.argv, 120));
  $("command").title = plainWords(session.argv, 1000);
  $("session").replaceChildren(foreign(session.name || session.id, "", 80));
  $("place").replaceChildren(foreign(session.cwd, "", 120));
  const pill = $("state");
  pill.className = `pill ${session.ended ? "over" : session.paused ? "paused" : "running"}`;
  pill.textContent = session.ended ? outcome() : session.paused ? "paused" : "running";
  $("pause").textContent = session.paused ? "Resume" : "Pause";
  $("pause").disabled = $("kill").disabled = Boolean(session.ended);
  title();
}

function outcome() {
  const result = session.result;
  if (!result) return "gone: sandlock itself has ended";
  if (result.timed_out) return "ended: time limit";
  if (result.signal) return `ended by signal ${Number(result.signal)}`;
  return `ended: exit code ${Number(result.exit_code)}`;
}

function end() {
  for (const id of [...cards.keys()]) discard(id);
  head();
  $("no-questions").textContent = `The session has ended at ${clock(session.ended)}. This page stays as it is.`;
  touch("processes");
}

function title() {
  const name = session ? plain(session.name || last(session.argv[0]), 40) : "sandlock";
  const waiting = cards.size ? `(${cards.size}) asks · ` : "";
  document.title = `${waiting}${name} · sandlock`;
  $("questions-count").textContent = String(cards.size);
  $("questions-count").hidden = !cards.size;
  $("no-questions").hidden = cards.size > 0;
  document.body.classList.toggle("asks", cards.size > 0);
}

$("pause").addEventListener("click", () => post(session.paused ? "resume" : "pause"));
$("kill").addEventListener("click", () => $("sure").showModal());
$("sure-no").addEventListener("click", () => $("sure").close());
$("sure-yes").addEventListener("click", () => {
  $("sure").close();
  post("kill");
});

// Questions ------------------------------------------------------------------------------------------------------------

const ASKS = {
  exec: "wants to run", connect: "wants to connect to", send: "wants to send to", bind: "wants to listen at",
  listen: "wants to listen at", resolve: "wants to look up", open: "wants to open", fork: "wants to start a process",
};

function chainOf(question) {
  const box = element("ol", "chain", "", { "aria-label": "Who asks, from the outermost program" });
  const links = [...question.chain].reverse();
  links.slice(-6).forEach((link, number, all) => {
    const item = element("li", number === all.length - 1 ? "asker" : "");
    const name = foreign(last(link.exe), "code", 40);
    item.append(name);
    item.title = `${plainWords(link.argv, 300)}\n${plain(link.exe)} (process ${Number(link.pid)})`;
    box.append(item);
  });
  if (links.length > 6) box.prepend(element("li", "", `${links.length - 6} more`));
  return box;
}

function target(question) {
  const box = element("div", "target code");
  if (question.kind === "exec") {
    box.append(words(question.argv, 1200));
  } else if (question.host || question.ip) {
    box.append(foreign(question.host || question.ip, "first", 253));
    if (question.port) box.append(`:${Number(question.port)}`);
    if (question.host && question.ip) box.append(" ", element("span", "quiet", foreign(question.ip)));
    if (question.protocol) box.append(" ", element("span", "quiet", plain(question.protocol, 12)));
  } else {
    box.append(foreign(question.target, "first", 1200));
  }
  return box;
}

function detail(list, name, ...content) {
  list.append(element("dt", "", name), element("dd", ""));
  list.lastChild.append(...content);
}

function details(question) {
  const list = element("dl", "details");
  const [rule, reason] = String(question.rule).split(/ # (.*)/s);
  if (!question.rule) detail(list, "Why", "no rule decides about it");
  else if (reason) detail(list, "Why", foreign(reason, "reason", 300), element("span", "quiet", " rule "), foreign(rule, "code quiet", 200));
  else detail(list, "Why", "the rule ", foreign(rule, "code", 200), " asks");
  if (question.cwd) detail(list, "In", foreign(question.cwd, "code"));
  if (question.kind === "exec") detail(list, "File", foreign(question.exe || question.target, "code"));
  return list;
}

function card(question) {
  const id = `q-${cards.size}-${Date.now()}`;
  const made = element("article", "card", "", { tabindex: "0", "aria-labelledby": id });
  const line = element("h3", "who", "", { id });
  line.append(chainOf(question), element("span", "wants", ASKS[question.kind] ?? plain(question.kind, 20)));
  made.append(line, target(question), details(question));
  const choices = element("div", "choices");
  const keys = new Map();
  let reason = null;
  for (const choice of question.choices) {
    const give = () => answer(question.id, { choice: choice.key, ...(choice.wants_reason ? { reason: reason.value } : {}) });
    const button = element("button", choice.answer.verdict, "", { type: choice.wants_reason ? "submit" : "button" });
    button.append(label(choice, question), element("kbd", "", plain(choice.key, 2), { "aria-hidden": "true" }));
    button.title = plain(choice.label, 500);
    if (choice.wants_reason) {
      const form = element("form", "saying");
      reason = element("input", "", "", {
        type: "text", maxlength: "500", placeholder: "Why not? The program gets to read it", "aria-label": "Reason of the denial",
        autocomplete: "off",
      });
      form.append(reason, button);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (reason.value.trim()) give();
        else reason.focus();
      });
      made.saying = form;
      keys.set(choice.key, () => reason.focus());
    } else {
      button.addEventListener("click", give);
      choices.append(button);
      keys.set(choice.key, give);
    }
  }
  made.append(choices);
  if (made.saying) made.append(made.saying);
  const foot = element("p", "foot quiet", "", {});
  foot.append(element("time", "", `asked at ${clock(question.time)}`));
  if (question.deadline) {
    foot.append(" · ", element("span", "left", "", { "data-deadline": question.deadline }));
    made.append(element("div", "bar", element("i"), { "data-from": question.time, "data-deadline": question.deadline, "aria-hidden": "true" }));
  }
  made.append(foot);
  made.addEventListener("keydown", (event) => {
    if (event.target !== made || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const act = keys.get(event.key);
    if (act) {
      event.preventDefault();
      act();
    }
  });
  return made;
}

// What a choice does, in few words; all of it is in the button's title.
function label(choice, question) {
  const { verdict, scope, words: number } = choice.answer;
  const box = element("span", "label");
  if (verdict === "allow" && scope === "once") box.append("Allow once");
  else if (verdict === "allow" && scope === "host") box.append("Allow ", foreign(question.host, "code", 60), " for this session");
  else if (verdict === "allow" && number) box.append("Allow ", foreign(question.argv.slice(0, number).join(" "), "code", 60), " … for this run");
  else if (verdict === "allow" && question.kind === "exec") box.append("Allow exactly this for this run");
  else if (verdict === "allow") box.append("Allow the same for this run");
  else if (verdict === "kill") box.append("Kill the program");
  else box.append(choice.wants_reason ? "Deny with this reason" : "Deny");
  return box;
}

function ask(question) {
  if (cards.has(question.id)) return;
  const made = card(question);
  cards.set(question.id, made);
  $("cards").append(made);
  made.calmAt = performance.now() + CALM;
  title();
  tick();
  const text = `${plain(last(question.chain[0]?.exe), 40)} ${ASKS[question.kind] ?? ""} ${question.kind === "exec" ? plainWords(question.argv) : plain(question.target)}`;
  $("announcer").textContent = `New question: ${text}`;
  if (document.hidden && "Notification" in window && Notification.permission === "granted") {
    const note = new Notification("sandlock asks", { body: text, tag: question.id });
    note.onclick = () => (window.focus(), made.focus());
  }
}

async function answer(id, value) {
  const made = cards.get(id);
  if (!made || made.inert || performance.now() < made.calmAt) return; // nobody has read it yet, or it has just moved
  made.inert = true;
  const reply = await post("answer", { question: id, answer: value });
  if (reply === null) made.inert = false;
  else if (!reply.answered) banner("Too late: that question was settled elsewhere.");
}

function settle(push) {
  if (cards.has(push.question)) $("announcer").textContent = `Question ${push.push}`;
  discard(push.question);
}

function discard(id) {
  const made = cards.get(id);
  if (!made) return;
  const next = made.nextElementSibling ?? made.previousElementSibling;
  const had = made.contains(document.activeElement);
  for (let below = made.nextElementSibling; below; below = below.nextElementSibling) below.calmAt = performance.now() + CALM;
  made.remove();
  cards.delete(id);
  if (had) (next ?? $("questions")).focus({ preventScroll: true });
  title();
}

function tick() {
  const now = Date.now() / 1000;
  for (const each of document.querySelectorAll("[data-deadline]")) {
    const left = Math.max(0, each.dataset.deadline - now);
    if (each.dataset.from) each.firstChild.style.setProperty("--left", left / (each.dataset.deadline - each.dataset.from));
    else each.textContent = `denied in ${seconds(Math.ceil(left) || 0.001)}`;
  }
  for (const each of document.querySelectorAll("[data-since]")) each.textContent = seconds(now - each.dataset.since);
}
setInterval(tick, 1000);

// Notifications --------------------------------------------------------------------------------------------------------

const notify = $("notify");
notify.hidden = !("Notification" in window) || Notification.permission !== "default";
notify.addEventListener("click", async () => {
  await Notification.requestPermission();
  notify.hidden = Notification.permission !== "default";
});
