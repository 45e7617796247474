"""How the report looks: light and dark, wide and narrow, on screen and on paper."""

from typing import Final

SERIES: Final = 6
"""Kinds of lines and markers that can be told apart without their colours."""

STYLE: Final = """
:root {
  color-scheme: light dark;
  --ink: #1b1d21; --muted: #5b616b; --paper: #fdfdfc; --panel: #f1f2f4; --edge: #868d98;
  --link: #0b57a4; --heat: #8db9e8;
  --s0: #33373d; --s1: #0a63a8; --s2: #b5460f; --s3: #8d2f78; --s4: #17734f; --s5: #7a5c00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8e9ec; --muted: #a9b0bb; --paper: #15171b; --panel: #20242a; --edge: #7d8692;
    --link: #8cc2ff; --heat: #23527f;
    --s0: #e3e5e8; --s1: #6fb6f5; --s2: #f49a66; --s3: #e39bd3; --s4: #66cda3; --s5: #dcbf4c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 0 1rem 3rem; max-width: 74rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1.5rem 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .5rem;
  border-top: 1px solid var(--edge); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p, ul, ol, dl { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
main:focus { outline: none; }
.skip { position: absolute; left: -99rem; padding: .5rem 1rem; background: var(--paper); }
.skip:focus { left: .5rem; top: .5rem; z-index: 1; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0;
  max-width: none; }
nav a { display: inline-block; padding: .25rem 0; }
.muted, footer, figcaption, caption { color: var(--muted); }
.wide { position: relative; overflow-x: auto; margin: 1rem 0; max-width: 100%; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .4rem; overflow-wrap: normal; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--panel); overflow-wrap: normal; }
th:first-child { text-align: left; padding-left: 0; }
thead th { border-bottom: 2px solid var(--edge); vertical-align: bottom; white-space: normal; }
tbody th { font-weight: 600; white-space: normal; overflow-wrap: anywhere;
  min-width: clamp(6.5rem, 22vw, 9.5rem); max-width: 20rem; }
td.text, th.text { text-align: left; }
small { color: var(--muted); font-size: .85em; display: block; }
.matrix { font-size: .82rem; }
.matrix tbody th { min-width: clamp(6.5rem, 25vw, 14rem); }
.matrix td { text-align: center; padding: .2rem .3rem; min-width: 2rem;
  background: color-mix(in srgb, var(--heat) calc(var(--share) * 100%), transparent); }
.matrix td.right { outline: 1px solid var(--edge); outline-offset: -2px; }
.matrix td.none { color: var(--muted); background: none; }
.matrix thead th { text-align: center; padding: .2rem .3rem; }
.matrix thead th:first-child { text-align: left; padding-left: 0; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
figure { margin: 1rem 0; }
svg { display: block; width: 100%; height: auto; max-width: 42rem; color: var(--ink); }
svg text { fill: currentColor; font: 13px system-ui, sans-serif; }
svg .grid { stroke: var(--edge); stroke-opacity: .45; }
svg .axis { stroke: currentColor; }
svg .lead { stroke: var(--edge); }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); }
.s3 { --c: var(--s3); } .s4 { --c: var(--s4); } .s5 { --c: var(--s5); }
svg .line { stroke: var(--c); fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .mark { stroke: var(--c); fill: var(--paper); stroke-width: 2; }
svg .mark.full { fill: var(--c); }
.two { display: grid; gap: 1rem 2rem; grid-template-columns: minmax(0, 1fr); }
.clip { border: 1px solid var(--edge); border-radius: .4rem; padding: .75rem; min-width: 0; }
.clip h4 { margin: 0 0 .25rem; font-size: 1rem; }
.clip p { margin: .25rem 0; }
.clip .strips { display: grid; gap: .5rem; grid-template-columns: minmax(0, 1fr); }
.clip figure { margin: 0; }
.clip figcaption { font-size: .85rem; }
.clip img { display: block; width: 100%; height: auto; image-rendering: pixelated; }
.answers { display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
.answers > * { flex: 1 1 13rem; min-width: 0; }
.answers table { width: 100%; }
.answers td, .answers thead th:last-child { width: 1%; }
.answers tbody th { min-width: 0; font-weight: 400; }
tbody th small { font-weight: 400; }
.answers tbody tr.label th { font-weight: 700; }
pre { background: var(--panel); padding: .75rem; overflow-x: auto; font-size: .85rem; }
dl.card { display: grid; grid-template-columns: minmax(7rem, max-content) minmax(0, 1fr);
  gap: .2rem 1rem; }
dl.card dt { color: var(--muted); }
dl.card dd { margin: 0; }
summary { cursor: pointer; padding: .25rem 0; }
@media (min-width: 60rem) {
  .two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media print { nav, .skip { display: none; } .clip, figure { break-inside: avoid; } }
"""
