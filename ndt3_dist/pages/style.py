"""How all pages look: light and dark, on a desk, on a phone of 360 px, and on paper."""

LIGHT = """
  --paper: #fff; --ink: #1b1f24; --soft: #5b6470; --rule: #dfe3e8; --card: #f5f7f9;
  --c0: #1b1f24; --c1: #1f5fa8; --c2: #b8500f; --c3: #23785a; --c4: #7446ad; --c5: #8a6d0b;
  --c6: #a02c5d; --warn: #a8321f; --faint: .3;
"""
DARK = """
  --paper: #14171b; --ink: #e4e7eb; --soft: #9aa4b0; --rule: #30363d; --card: #1d2127;
  --c0: #f0f2f5; --c1: #6cabf2; --c2: #f0985a; --c3: #5cc79d; --c4: #b896ea; --c5: #d9bb4f;
  --c6: #ec86b0; --warn: #f08a78; --faint: .38;
"""
STYLE = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
* {{ box-sizing: border-box }}
body {{ font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; margin: 0 auto;
  max-width: 62rem; padding: 1.5rem 1rem 3rem; color: var(--ink); background: var(--paper);
  overflow-wrap: break-word; -webkit-text-size-adjust: 100% }}
header p {{ margin: 0; color: var(--soft) }}
h1 {{ font-size: clamp(1.35rem, 1.1rem + 1.4vw, 1.9rem); line-height: 1.25; margin: .2rem 0 .5rem;
  font-weight: 650; text-wrap: balance }}
h2 {{ font-size: 1.15rem; margin: 2.4rem 0 .7rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--rule) }}
h3 {{ font-size: 1rem; margin: 1.6rem 0 .5rem }}
p {{ margin: .5rem 0; max-width: 46rem }}
.note {{ color: var(--soft); font-size: .875rem }}
.warn {{ color: var(--warn) }}
code {{ font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere }}
h1 code {{ font-size: .85em }}
.n {{ font-variant-numeric: tabular-nums; white-space: nowrap }}
dl.facts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(8.6rem, 1fr));
  gap: .6rem; margin: 1.2rem 0 }}
dl.facts div {{ background: var(--card); border-radius: .4rem; padding: .5rem .7rem; min-width: 0 }}
dl.facts dt {{ font-size: .78rem; line-height: 1.3; color: var(--soft) }}
dl.facts dd {{ margin: .1rem 0 0; font-size: 1.1rem; font-weight: 600 }}
dl.facts dd:has(code) {{ font-size: .85rem; font-weight: 400 }}
.scroll {{ overflow-x: auto; margin: .6rem 0; position: relative }}
table {{ border-collapse: collapse; font-size: .9rem; min-width: min(100%, 24rem) }}
th, td {{ padding: .32rem 1.2rem .32rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule) }}
th {{ font-weight: 600; color: var(--soft); font-size: .82rem; vertical-align: bottom }}
th.n, td.n {{ text-align: right; padding-left: .4rem }}
th.n {{ white-space: normal }}
th code, td code {{ overflow-wrap: normal }}
th code, td:first-child code {{ white-space: nowrap }}
td code.long {{ display: inline-block; width: 13rem; white-space: normal !important;
  overflow-wrap: anywhere }}
tr.best td {{ font-weight: 650 }}
td.bar {{ width: 60%; min-width: 6rem; padding-right: 0 }}
td.bar span {{ display: block; height: .8rem; margin-top: .3rem; min-width: 1px;
  background: var(--c1); border-radius: 2px }}
td.bar.off span {{ background: var(--c2) }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr));
  gap: 1.1rem 1.6rem; margin-top: 1rem }}
.charts .wide {{ grid-column: 1 / -1 }}
figure {{ margin: 0; min-width: 0; break-inside: avoid }}
figcaption {{ font-size: .875rem; line-height: 1.4; display: flex; flex-wrap: wrap;
  column-gap: .9rem }}
figcaption .key {{ color: var(--soft); white-space: nowrap }}
figcaption .key::before {{ content: ""; display: inline-block; width: 1rem; height: .2rem;
  margin-right: .35rem; vertical-align: middle; background: var(--k); border-radius: 1px }}
figcaption .key.dot::before {{ width: .5rem; height: .5rem; border-radius: 50% }}
.plot {{ position: relative; height: 10.5rem; margin: .6rem 1.7rem 2.7rem 3rem;
  font-size: .75rem; color: var(--soft) }}
.plot svg {{ position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible }}
.plot path {{ fill: none; vector-effect: non-scaling-stroke; stroke: var(--k);
  stroke-width: 1.8px; stroke-linejoin: round }}
.plot path.grid {{ stroke: var(--rule); stroke-width: 1px }}
.plot path.thin {{ stroke-width: 1.2px }}
.plot path.faint {{ stroke-width: 1px; opacity: var(--faint) }}
.plot path.dot {{ stroke-width: 6px; stroke-linecap: round }}
.plot path.area {{ fill: var(--k); fill-opacity: .45; stroke-width: 1px }}
.plot path.band {{ fill: var(--k); fill-opacity: .16; stroke: none }}
.plot path.cells {{ vector-effect: none; stroke-width: .85;
  stroke-dasharray: .9 .1 }}
.tall.plot {{ height: 17rem }}
.plot span {{ position: absolute; white-space: nowrap; line-height: 1 }}
.plot .y {{ right: 100%; transform: translateY(50%); padding-right: .4rem }}
.plot .x {{ top: 100%; transform: translateX(-50%); padding-top: .4rem }}
.plot .of-x {{ top: 100%; left: 0; right: 0; text-align: center; padding-top: 1.5rem }}
.k0 {{ --k: var(--c0) }} .k1 {{ --k: var(--c1) }} .k2 {{ --k: var(--c2) }} .k3 {{ --k: var(--c3) }}
.k4 {{ --k: var(--c4) }} .k5 {{ --k: var(--c5) }} .k6 {{ --k: var(--c6) }}
@media print {{
  :root {{ color-scheme: light; {LIGHT} }}
  body {{ max-width: none; padding: 0; font-size: 10pt }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact }}
  .charts {{ grid-template-columns: 1fr 1fr }} .plot {{ height: 8rem }}
  .scroll {{ overflow: visible }} table {{ font-size: 8pt }} th, td {{ padding-right: .5rem }}
  h2, h3 {{ break-after: avoid }} tr {{ break-inside: avoid }}
  thead {{ display: table-header-group }}
}}
"""
COLOURS = 6
"""Of series; --c0 is the ink of what is true."""
