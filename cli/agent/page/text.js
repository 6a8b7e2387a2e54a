// Text from inside the sandbox, as text: never markup, and with every character that does not show itself spelled out.

const ODD = /[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Cs}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0]|(?! )\p{Zs}|[\ufe00-\ufe0f]|[\u{e0100}-\u{e01ef}]|(?<=\p{M}{2})\p{M}+/gu;
export const LIMIT = 400;

function spelled(found) {
  if (found === "\n") return "\\n";
  if (found === "\t") return "\\t";
  if (found === "\r") return "\\r";
  return Array.from(found, (c) => `\\u{${c.codePointAt(0).toString(16)}}`).join("");
}

// The text with its odd characters escaped, cut: for attributes, titles, labels.
export function plain(text, limit = LIMIT) {
  const whole = String(text ?? "");
  const letters = whole.length > limit * 2 ? Array.from(whole.slice(0, limit * 2)) : Array.from(whole);
  const cut = letters.length > limit || whole.length > limit * 2;
  return letters.slice(0, limit).join("").replace(ODD, spelled) + (cut ? "…" : "");
}

// The same as nodes, with what was escaped set off.
export function shown(text, limit = LIMIT) {
  const whole = String(text ?? "");
  const letters = Array.from(whole.slice(0, limit * 2));
  const kept = letters.slice(0, limit).join("");
  const box = document.createDocumentFragment();
  let at = 0;
  for (const found of kept.matchAll(ODD)) {
    if (found.index > at) box.append(kept.slice(at, found.index));
    box.append(element("span", "odd", spelled(found[0])));
    at = found.index + found[0].length;
  }
  if (at < kept.length) box.append(kept.slice(at));
  if (letters.length > limit || whole.length > limit * 2) box.append(element("span", "odd", "…"));
  return box;
}

export function element(name, style = "", content = "", attributes = {}) {
  const made = document.createElement(name);
  if (style) made.className = style;
  made.append(content);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// A piece of foreign text: on its own, whatever direction its letters have.
export function foreign(text, style = "", limit = LIMIT) {
  return element("bdi", style, shown(text, limit));
}

function quoted(word) {
  return /^[\w@%+=:,./~-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

// Words as a shell takes them; each on its own, the first one strong.
export function words(argv, limit = LIMIT) {
  const box = element("span", "words");
  let room = limit;
  argv.forEach((word, number) => {
    if (room <= 0) return;
    if (number) box.append(" ");
    const text = quoted(String(word));
    box.append(foreign(text, number ? "" : "first", room));
    room -= text.length + 1;
    if (room <= 0 && number < argv.length - 1) box.append(" ", element("span", "odd", "…"));
  });
  return box;
}

export const plainWords = (argv, limit = 200) => plain(argv.map((word) => quoted(String(word))).join(" "), limit);

export const last = (path) => String(path ?? "").split("/").pop() || String(path ?? "");

export function clock(time) {
  return new Date(time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

export function seconds(value) {
  if (!(value >= 0)) return "";
  if (value < 1) return `${Math.max(1, Math.round(value * 1000))} ms`;
  if (value < 60) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
}
