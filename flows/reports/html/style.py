"""The report's style sheet: one accent colour, and the same variables for light and for dark screens."""

STYLE = """
:root {
  color-scheme: light dark;
  --back: #f4f5f8; --card: #ffffff; --ink: #1a2130; --dim: #5b6475; --line: #e1e4ea; --mute: #858e9f;
  --accent: #3151d3; --soft: #9db0f2; --wash: rgba(49, 81, 211, 0.10); --onaccent: #ffffff;
  --bad: #c8323c; --badwash: rgba(200, 50, 60, 0.09); --busy: #8f5a0c; --warnwash: rgba(183, 121, 31, 0.14);
  --s0: #cdd3e0; --s1: #7f97e3; --s2: #1b36a6;
  --p0: #c2410c; --p1: #0f766e; --p2: #7e22ce; --p3: #a16207; --p4: #be185d; --p5: #4d7c0f;
  --shadow: 0 1px 2px rgba(20, 28, 45, 0.06);
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #0f131a; --card: #181e27; --ink: #e6eaf1; --dim: #9aa5b6; --line: #2b3340; --mute: #5f6b7e;
    --accent: #8ea5ff; --soft: #4a5fb3; --wash: rgba(142, 165, 255, 0.13); --onaccent: #0f131a;
    --bad: #f2777f; --badwash: rgba(242, 119, 127, 0.13); --busy: #e3b341; --warnwash: rgba(227, 179, 65, 0.13);
    --s0: #3d4759; --s1: #6c86e8; --s2: #dbe4ff;
    --p0: #fb923c; --p1: #2dd4bf; --p2: #c084fc; --p3: #facc15; --p4: #f472b6; --p5: #a3e635;
    --shadow: none;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 3.4rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, sans-serif; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
main, nav > div { max-width: 1360px; margin: 0 auto; padding: 0 1.25rem; }
nav { position: sticky; top: 0; z-index: 5; background: var(--back); border-bottom: 1px solid var(--line); }
nav > div { display: flex; gap: 0.3rem; overflow-x: auto; padding-top: 0.4rem; padding-bottom: 0.4rem; }
nav button:first-child { margin-left: -0.7rem; }
nav button { border: 0; background: none; color: var(--dim); white-space: nowrap; padding: 0.25rem 0.7rem; }
nav button:hover { color: var(--ink); background: var(--wash); }
h1 { font-size: 1.65rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.8rem; letter-spacing: -0.005em; }
h3 { font-size: 0.98rem; margin: 0 0 0.15rem; }
p { margin: 0; } header p, .card > p { color: var(--dim); }
.card > p { font-size: 0.85rem; line-height: 1.4; margin-bottom: 0.7rem; }
header { padding: 1.4rem 0 1rem; } header p { margin-top: 0.3rem; } header p b { color: var(--ink); }
.title { display: flex; flex-wrap: wrap; align-items: center; gap: 0.7rem; }
.pill { font-size: 0.8rem; font-weight: 600; border-radius: 99px; padding: 0.1rem 0.7rem; background: var(--wash);
  color: var(--accent); }
.pill.running { background: var(--warnwash); color: var(--busy); }
.link { color: var(--accent); text-decoration: none; } .link:hover { text-decoration: underline; }
.title .link, .title .run { margin-left: auto; }
.tiles { display: grid; gap: 0.8rem; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  box-shadow: var(--shadow); }
.tile { padding: 0.75rem 1rem; min-width: 0; } .tile span, .tile small { display: block; color: var(--dim);
  font-size: 0.8rem; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.3; font-weight: 650; letter-spacing: -0.01em; }
.tile.lead b { color: var(--accent); } .tile.bad b { color: var(--bad); }
.bar { display: block; height: 5px; margin-top: 0.4rem; border-radius: 3px; background: var(--line);
  overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
.remarks { list-style: none; margin: 0.8rem 0 0; padding: 0; display: grid; gap: 0.5rem; }
.remarks li { padding: 0.5rem 0.9rem; border-radius: 10px; background: var(--wash); font-size: 0.92rem; }
.remarks li.warn { background: var(--warnwash); }
.remarks li.warn::before { content: "! "; font-weight: 700; color: var(--busy); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(12, minmax(0, 1fr)); margin-top: 1rem; }
.card { padding: 1rem 1.1rem; min-width: 0; }
.s3 { grid-column: span 3; } .s4 { grid-column: span 4; } .s6 { grid-column: span 6; } .s8 { grid-column: span 8; }
.s12 { grid-column: 1 / -1; }
.scroll { overflow-x: auto; margin: 0 -0.4rem; } .plot { width: 100%; }
.plot:empty::after { content: "drawing\\2026"; color: var(--mute); font-size: 0.85rem; }
.small { display: grid; gap: 0.6rem 1rem; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); }
.small figure { margin: 0; min-width: 0; } .small figure:only-child { max-width: 700px; }
.small figcaption { font-size: 0.82rem; color: var(--dim); }
.next { display: grid; gap: 0.35rem; } .next button { display: flex; justify-content: space-between; }
h4 { margin: 0.9rem 0 0.3rem; font-size: 0.82rem; color: var(--dim); font-weight: 600; }
#parallel { position: relative; } #parallel canvas, #parallel svg { position: absolute; inset: 0; width: 100%;
  height: 100%; } #parallel svg { touch-action: pan-x pan-y; user-select: none; }
.axis line { stroke: var(--mute); } .axis text { paint-order: stroke; stroke: var(--card); stroke-width: 4px;
  stroke-linejoin: round; } .axis .tick { fill: var(--dim); font-size: 11px; } .axis .name { fill: var(--ink);
  font-size: 12px; font-weight: 600; cursor: ew-resize; touch-action: none; }
.axis .grip { fill: transparent; cursor: ns-resize; touch-action: none; }
.axis .range { fill: var(--accent); opacity: 0.35; }
#parallel .over { fill: none; stroke: var(--ink); stroke-width: 2.2; pointer-events: none; }
.tip { position: absolute; pointer-events: none; background: var(--card); border: 1px solid var(--line); z-index: 2;
  border-radius: 8px; padding: 0.4rem 0.6rem; font-size: 12px; line-height: 1.45; white-space: nowrap; }
.empty { color: var(--dim); } code, pre { font: 0.85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: 0 0 0.8rem; padding: 0.8rem 0.9rem; background: var(--back); border-radius: 8px; white-space: pre-wrap;
  max-height: 250px; overflow: auto; }
button, select, input { font: inherit; color: inherit; }
button { border: 1px solid var(--line); background: var(--card); border-radius: 8px; padding: 0.2rem 0.7rem;
  font-size: 0.85rem; cursor: pointer; }
button:hover { border-color: var(--accent); } button:disabled { opacity: 0.4; cursor: default; }
button.main { background: var(--accent); border-color: var(--accent); color: var(--onaccent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.row { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; }
.run { font-size: 0.85rem; color: var(--dim); } .run button { margin-left: 0.4rem; padding: 0 0.5rem; }
.bars { display: grid; grid-template-columns: minmax(80px, 30%) 1fr 4.4rem; gap: 0.7rem; align-items: center;
  padding: 0.2rem 0; font-size: 0.9rem; }
.bars span { line-height: 1.25; } .bars em { font-style: normal;
  color: var(--dim); text-align: right; font-size: 0.82rem; white-space: nowrap; }
.bars > i { position: relative; height: 14px; background: var(--wash); border-radius: 4px; }
.bars > i > i { display: block; height: 100%; background: var(--accent); border-radius: 4px; }
.unseen { color: var(--dim); font-size: 0.85rem; margin-top: 0.5rem; }
.bars u { position: absolute; top: 6px; height: 2px; background: var(--mute); }
.param { display: grid; grid-template-columns: minmax(110px, 34%) 1fr minmax(90px, 22%); gap: 0.8rem;
  align-items: center; padding: 0.4rem 0; border-top: 1px solid var(--line); font-size: 0.9rem; }
.rows { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); column-gap: 2.5rem; }
.param b { font-weight: 600; } .param mark { margin-left: 0.4rem; }
.param small { display: block; color: var(--dim); font-size: 0.78rem; line-height: 1.3; }
.param svg { width: 100%; height: 36px; display: block; } .param > div:last-child { text-align: right; }
svg .all { fill: var(--s0); } svg .base { stroke: var(--line); fill: none; }
svg .good, svg .first { stroke: var(--accent); stroke-width: 1.5; opacity: 0.55; vector-effect: non-scaling-stroke; }
svg .first { stroke-width: 3; opacity: 1; }
mark { background: var(--warnwash); color: var(--busy); border-radius: 6px; padding: 0 0.4rem; font-size: 0.78rem;
  font-weight: 600; display: inline-block; }
.stack { display: flex; height: 22px; border-radius: 6px; overflow: hidden; background: var(--line); }
.stack i { height: 100%; } i.accent { background: var(--accent); } i.soft { background: var(--soft); }
i.bad { background: var(--bad); } i.line { background: var(--mute); opacity: 0.5; }
.legend { list-style: none; padding: 0; margin: 0.8rem 0; font-size: 0.9rem; }
.legend li { display: flex; gap: 0.6rem; align-items: center; padding: 0.12rem 0; }
.legend i { width: 11px; height: 11px; border-radius: 3px; } .legend b { margin-left: auto; font-weight: 600; }
.legend em { width: 3rem; text-align: right; color: var(--dim); font-style: normal; }
.pairs { display: flex; flex-wrap: wrap; gap: 0.4rem 2rem; margin: 0; padding-top: 0.7rem;
  border-top: 1px solid var(--line); }
.pairs dt { color: var(--dim); font-size: 0.8rem; } .pairs dd { margin: 0; font-weight: 600; }
.pairs { display: grid; grid-auto-flow: column; grid-template-rows: auto auto; justify-content: start; }
.failure { display: grid; grid-template-columns: 3.2rem 1fr; gap: 0.5rem; padding: 0.6rem 0;
  border-top: 1px solid var(--line); } .failure > b { color: var(--bad); font-size: 1.1rem; }
.failure code { display: block; white-space: pre-wrap; margin-bottom: 0.35rem; }
.failure .more { padding: 0 0.5rem; } .failure mark { margin-bottom: 0.35rem; }
.pick { border-radius: 50%; width: 1.05rem; height: 1.05rem; padding: 0; position: absolute; left: 1rem; top: 0.45rem;
  border-color: var(--mute); background: none; } td:first-child:has(.pick) { padding-left: 2.6rem; }
.picks { display: flex; flex-wrap: wrap; gap: 0.4rem; } .picks:not(:empty) { margin: 0.2rem 0 0.5rem; }
.picks button { border-left-width: 4px; }
.said { margin-bottom: 0.7rem; max-width: 100ch; } .card > p.said { color: var(--ink); font-size: 0.95rem; }
.final { display: grid; grid-template-columns: 6.2rem 6.8rem minmax(0, 1fr) 15.5rem; gap: 0.9rem;
  align-items: center; padding: 0.35rem 0; border-top: 1px solid var(--line); font-size: 0.9rem; }
.final.head, .final.foot { border: 0; color: var(--dim); font-size: 0.78rem; padding: 0.1rem 0; }
.final > span:last-child { text-align: right; } .final mark { margin-left: 0.5rem; }
.final .more { white-space: nowrap; } .final em { font-style: normal; color: var(--bad); font-size: 0.82rem; }
.final small { color: var(--dim); }
.final.wins > span:last-child { font-weight: 650; } .final mark { background: var(--wash); color: var(--accent); }
.track { position: relative; height: 26px; display: block; background: var(--back); border-radius: 6px; }
.track > * { position: absolute; } .track .band { top: 0; bottom: 0; background: var(--wash); }
.track .error { top: 9px; height: 8px; border-radius: 4px; background: var(--s0); }
.track b { width: 9px; height: 9px; margin: 8.5px 0 0 -4.5px; border-radius: 50%; background: var(--mute);
  opacity: 0.8; }
.track s { top: 4px; bottom: 4px; width: 3px; margin-left: -1.5px; border-radius: 2px; background: var(--ink); }
.wins .track b, .wins .track s { background: var(--accent); }
.scale { display: flex; justify-content: space-between; font-style: normal; }
.tools { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; margin: 0.5rem 0 0.7rem; }
.tools input { flex: 1 1 240px; min-width: 0; } .tools input, .tools select { border: 1px solid var(--line);
  border-radius: 8px; background: var(--back); padding: 0.35rem 0.7rem; }
.tools span { color: var(--dim); font-size: 0.85rem; }
.table { overflow-x: auto; margin: 0 -1.1rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; }
th, td { text-align: right; padding: 0.34rem 0.8rem; border-bottom: 1px solid var(--line); white-space: nowrap;
  max-width: 260px; overflow: hidden; text-overflow: ellipsis; }
th { padding: 0; color: var(--dim); font-weight: 600; } th button { all: unset; cursor: pointer; font-size: 0.82rem;
  padding: 0.4rem 0.8rem; } th button:hover { color: var(--ink); } th button:focus-visible { outline: 2px solid; }
th[aria-sort] button { color: var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td.text, th.text { text-align: left; } tbody tr { cursor: pointer; } tbody tr:hover td { background: var(--wash); }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--card); padding-left: 1.1rem; }
tr.best td { font-weight: 650; } tr.best td:first-child { color: var(--accent); }
td.failed { color: var(--bad); } td.running { color: var(--busy); }
dialog { width: min(640px, calc(100vw - 2rem)); max-height: calc(100vh - 3rem); border: 1px solid var(--line);
  border-radius: 14px; padding: 1.2rem 1.3rem; background: var(--card); color: var(--ink); }
dialog::backdrop { background: rgba(8, 11, 18, 0.5); } dialog h3 { font-size: 1.15rem; }
dialog .close { float: right; }
dialog dl { display: grid; grid-template-columns: auto 1fr; gap: 0.1rem 1rem; margin: 0; font-size: 0.9rem; }
dialog dt { color: var(--dim); } dialog dd { margin: 0; text-align: right; }
footer { color: var(--dim); font-size: 0.82rem; padding: 1.6rem 0 2rem; }
@media (max-width: 1000px) {
  .s3, .s4, .s6, .s8 { grid-column: 1 / -1; } .tiles { grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); }
}
@media (max-width: 900px) {
  .final { grid-template-columns: auto 1fr; gap: 0.3rem 0.6rem; } .final.head { display: none; }
  .final .track, .final .scale { grid-row: 2; grid-column: 1 / -1; } .final > span:nth-child(2) { display: none; }
}
@media (max-width: 560px) {
  main, nav > div { padding-left: 0.8rem; padding-right: 0.8rem; } .card { padding: 0.9rem; border-radius: 10px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.6rem; } .tile.lead { grid-column: 1 / -1; }
  .tile b { font-size: 1.25rem; } .tile.lead b { font-size: 1.6rem; }
  .grid { gap: 0.7rem; } .title .link, .title .run { margin-left: 0; } .param { gap: 0.5rem; }
  .param { grid-template-columns: 1fr auto; } .param svg { grid-row: 2; grid-column: 1 / -1; height: 30px; }
  th button { max-width: 150px; overflow: hidden; text-overflow: ellipsis; display: block; }
  .table { margin: 0 -0.9rem; } th:first-child, td:first-child { padding-left: 0.9rem; }
}
@media print { nav, .tools, button { display: none; } .card { break-inside: avoid; } }
"""
