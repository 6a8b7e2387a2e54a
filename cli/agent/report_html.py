"""A report as one HTML file: no scripts, nothing from elsewhere, in the light and in the dark.

Rule: every text goes through `_text`; a page that a log could write into would be read with a person's trust.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .sections import facts, sections, summary
from .timeline import STYLE as PICTURE
from .timeline import timeline
from .wording import clock, command

if TYPE_CHECKING:
    from sandlock.sessions.digest import Digest

    from .sections import Item, Section

__all__ = ["as_html"]

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1d2733;--soft:#5b6877;--line:#e1e6ec;--band:#f5f7f9;--accent:#2f6ec4;
--deny:#b81d2b;--denybg:#fdeeee;--good:#1f7a45;--code:#f2f4f7}
@media(prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e6eaef;--soft:#98a4b3;--line:#2e3742;--band:#1b2129;
--accent:#7db1f5;--deny:#ff8188;--denybg:#33191d;--good:#69c793;--code:#1e252d}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1100px;margin:0 auto;padding:2.5rem 1.75rem 5rem}
header p{margin:.3rem 0 0;color:var(--soft)}
h1{font-size:1.7rem;line-height:1.25;margin:0;font-weight:650;letter-spacing:-.012em;overflow-wrap:anywhere}
h2{font-size:1.17rem;line-height:1.3;margin:2.8rem 0 .7rem;font-weight:650;letter-spacing:-.005em}
p{margin:.4rem 0 .8rem;max-width:46rem}
.lead{font-size:1.06rem;color:var(--ink)!important;margin-top:.9rem!important}
code,pre,.mono{font-family:ui-monospace,"SF Mono","Cascadia Mono","DejaVu Sans Mono",Menlo,Consolas,monospace;
font-size:.875em}
nav{margin:1.2rem 0 0;display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;font-size:.92rem}
nav a{color:var(--accent);text-decoration:none}nav a:hover{text-decoration:underline}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.4rem;margin:1.5rem 0 0;padding:1rem 1.2rem;
background:var(--band);border-radius:8px}
dl.facts dt{color:var(--soft)}dl.facts dd{margin:0;overflow-wrap:anywhere}
.counts{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.5rem 0 0;padding:0;list-style:none}
.counts li{flex:1 1 8rem;border:1px solid var(--line);border-radius:8px;padding:.65rem 1rem .7rem}
.counts b{display:block;font-size:1.5rem;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.counts span{color:var(--soft);font-size:.9rem}.counts .bad b{color:var(--deny)}
.wide{overflow-x:auto;margin:.4rem 0 0}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th{text-align:left;font-weight:600;color:var(--soft);border-bottom:1px solid var(--line);padding:.35rem 1.3rem .35rem 0;
white-space:nowrap}
td{border-bottom:1px solid var(--line);padding:.36rem 1.3rem .36rem 0;vertical-align:top;overflow-wrap:anywhere}
th:last-child,td:last-child{padding-right:0}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.s{white-space:nowrap}
td.first{white-space:pre-wrap;min-width:16rem}
ol.items{list-style:none;margin:.5rem 0 0;padding:0}
ol.items>li{border:1px solid var(--line);border-radius:8px;padding:.75rem 1rem .8rem;margin:0 0 .7rem;
overflow-wrap:anywhere}
ol.items .head{display:flex;flex-wrap:wrap;gap:.3rem .8rem;align-items:baseline}
ol.items .no{color:var(--soft);font-variant-numeric:tabular-nums;min-width:1.2rem}
ol.items .head code{font-size:.93em;font-weight:600}
.tag{font-size:.8rem;color:var(--soft);background:var(--band);border-radius:4px;padding:.06rem .45rem;
white-space:nowrap}
.denied .head code+.tag{color:var(--deny);background:var(--denybg)}
ol.items p{margin:.28rem 0 0 2rem;font-size:.93rem;max-width:none}
ol.items p b{font-weight:600;color:var(--soft)}
pre{background:var(--code);border-radius:8px;padding:.85rem 1rem;overflow-x:auto;margin:.3rem 0 1rem;line-height:1.5}
.kind{color:var(--soft);font-size:.88rem;margin:1rem 0 0}
figure{margin:0 0 1.2rem;border:1px solid var(--line);border-radius:8px;overflow-x:auto;padding:.4rem}
figure svg{display:block;max-width:none;min-width:820px;width:100%;height:auto}
footer{margin-top:3.5rem;color:var(--soft);font-size:.88rem;border-top:1px solid var(--line);padding-top:1rem}
details summary{cursor:pointer;color:var(--accent);margin:.4rem 0}
@media print{main{max-width:none;padding:0}nav{display:none}}
@media(max-width:640px){main{padding:1.5rem 1rem 3rem}dl.facts{grid-template-columns:1fr}
dl.facts dd{margin-bottom:.4rem}}
"""
LONGEST_TITLE = 72
NARROW = 26
"""Characters: cells with so few are not broken into lines."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def as_html(found: Digest) -> str:
    """The report, a whole page."""
    runs, parts = found.journal.runs, sections(found)
    title = _cut(command(runs[0].argv, 40)) if len(runs) == 1 and runs[0].argv else "What the sandbox saw"
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{_text(title)} \N{MIDDLE DOT} sandlock report</title>",
        f"<style>{STYLE}{PICTURE}</style>",
        "</head>",
        "<body><main>",
        f"<header><h1><code>{_text(title)}</code></h1>",
        f'<p class="lead">{_text(_first(found))}</p></header>',
        _counts(found),
    ]
    if len(runs) == 1:
        lines += ['<dl class="facts">']
        lines += [f"<dt>{_text(name)}</dt><dd>{_value(name, value)}</dd>" for name, value in facts(found, runs[0])]
        lines += ["</dl>"]
    lines.append(
        "<nav>" + "".join(f'<a href="#s{at}">{_text(each.title)}</a>' for at, each in enumerate(parts)) + "</nav>"
    )
    for at, section in enumerate(parts):
        lines += _section(found, section, at)
    lines += [f"<footer>From {_text(found.journal.path)}, by sandlock.</footer>", "</main></body></html>"]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    return escape(text)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TITLE else text[:LONGEST_TITLE].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _first(found: Digest) -> str:
    runs = found.journal.runs
    if len(runs) != 1:
        return summary(found)
    told = dict(facts(found, runs[0]))
    return f"{told['Ended'][:1].upper()}{told['Ended'][1:]} after {told['Ran for']}, started {clock(runs[0].started)}."


def _value(name: str, value: str) -> str:
    return f"<code>{_text(value)}</code>" if name in ("Command", "Directory", "Run", "Policy") else _text(value)


def _counts(found: Digest) -> str:
    reached = len({each.host or each.address for each in found.destinations if each.allowed})
    waited = sum(each.waited for each in found.questions)
    cells = (
        (len(found.journal.programs), "programs", ""),
        (reached, "destinations reached", ""),
        (found.journal.totals.denied, "calls denied", "bad" if found.journal.totals.denied else ""),
        (len(found.questions), f"questions, {waited:.0f} s waited" if found.questions else "questions", ""),
    )
    inner = "".join(
        f'<li class="{kind}"><b>{count:,}</b><span>{_text(name)}</span></li>' for count, name, kind in cells
    )
    return f'<ul class="counts">{inner}</ul>'


def _section(found: Digest, section: Section, at: int) -> list[str]:
    lines = [f'<section id="s{at}"><h2>{_text(section.title)}</h2>']
    lines += [f"<p>{_text(note)}</p>" for note in section.notes]
    if section.run is not None:
        lines.append(f"<figure>{timeline(found, section.run, alone=False)}</figure>")
    if section.rows:
        table = _table(section)
        folded = section.run is not None and len(section.rows) > 12
        lines += ["<details><summary>The same as a table</summary>", *table, "</details>"] if folded else table
    if section.items:
        denied = " denied" if "denied" in section.title else ""
        lines += [f'<ol class="items{denied}">', *[_item(item) for item in section.items], "</ol>"]
    for language, text in section.blocks:
        kind = "As a profile" if language == "toml" else "As flags of sandlock run"
        lines += [f'<p class="kind">{kind}</p>', f"<pre><code>{_text(text)}</code></pre>"]
    return [*lines, "</section>"]


def _table(section: Section) -> list[str]:
    used = [at for at in range(len(section.columns)) if any(row[at] for row in section.rows)]
    kinds = [' class="n"' if at in section.numbers else "" for at in range(len(section.columns))]
    lines = ['<div class="wide"><table><thead><tr>']
    lines += [f"<th{kinds[at]}>{_text(section.columns[at])}</th>" for at in used]
    lines.append("</tr></thead><tbody>")
    for row in section.rows:
        cells = []
        for at in used:
            kind = ' class="first mono"' if at == used[0] and section.run is not None else kinds[at]
            if not kind and len(row[at]) <= NARROW:
                kind = ' class="s"'
            cells.append(f"<td{kind}>{_text(row[at])}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return [*lines, "</tbody></table></div>"]


def _item(item: Item) -> str:
    tags = "".join(f'<span class="tag">{_text(fact)}</span>' for fact in item.facts)
    lines = []
    for line in item.lines:
        name, colon, rest = line.partition(": ")
        lines.append(f"<p><b>{_text(name)}:</b> {_text(rest)}</p>" if colon else f"<p>{_text(line)}</p>")
    head = f'<span class="no">{item.number}</span><code>{_text(item.head)}</code>{tags}'
    return f'<li><div class="head">{head}</div>{"".join(lines)}</li>'
