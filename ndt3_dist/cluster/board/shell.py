"""The page of the board without its content, which its script asks for."""

from ndt3_dist.cluster.board.collection import SORTS
from ndt3_dist.pages.columns import AXES
from ndt3_dist.pages.style import STYLE

DASHES = {"d1": "6 4", "d2": "2 3", "d3": "9 3 2 3"}
"""Lines of the runs behind the first six, the next six, and so on."""
OWN = """
body { max-width: 84rem }
form, .fields { display: flex; flex-wrap: wrap; gap: .5rem .9rem; align-items: center;
  margin: .8rem 0 }
form label, .fields label { font-size: .875rem; color: var(--soft) }
input, select, button { font: inherit; font-size: .875rem; color: var(--ink);
  background: var(--card); border: 1px solid var(--rule); border-radius: .3rem;
  padding: .25rem .45rem; max-width: 100% }
input[type=search] { width: 15rem }
.list { height: 17rem; overflow-y: auto; border: 1px solid var(--rule); border-radius: .4rem;
  position: relative; resize: vertical }
.rows { position: relative }
.row { position: absolute; left: 0; right: 0; height: 34px; display: grid; align-items: center;
  grid-template-columns: 1.4rem 1.4rem minmax(0, 1fr) 5rem 9rem 5rem 5rem 6rem; gap: .5rem;
  padding: 0 .6rem; font-size: .875rem; border-bottom: 1px solid var(--rule); cursor: pointer }
.row:hover { background: var(--card) }
.row .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.row .n { text-align: right; overflow: hidden }
.state.live { color: var(--c3) } .state.killed { color: var(--warn) }
.state.stopped, .state.empty { color: var(--soft) }
.swatch { display: inline-block; width: 1.1rem; height: 0; border-top: 3px solid var(--k);
  vertical-align: middle; margin-right: .3rem }
.swatch.none { border-color: transparent }
.swatch.d1 { border-top-style: dashed } .swatch.d2 { border-top-style: dotted }
.swatch.d3 { border-top-style: double }
.zoom .plot { touch-action: pan-y; cursor: crosshair }
.zoom figure { user-select: none }
.zoom svg { overflow: hidden }
#fault:empty, .part:empty { display: none }
@media (max-width: 48rem) {
  .row { grid-template-columns: 1.4rem 1.2rem minmax(0, 1fr) 4rem 5rem }
  .row .loss, .row .rate, .row .when { display: none }
}
""" + "".join(
    f".plot path.{name} {{ stroke-dasharray: {dash} }}\n" for name, dash in DASHES.items()
)
SMOOTH = {"0": "none", "0.005": "0.5 %", "0.02": "2 %", "0.05": "5 %", "0.2": "20 %"}
"""Shares of all steps that means are of."""


def select(name: str, options: dict[str, str], chosen: str = "") -> str:
    """A field of the one form, wherever on the page it stands."""
    made = "".join(
        f'<option value="{value}"{" selected" * (value == chosen)}>{text}</option>'
        for value, text in options.items()
    )
    return f'<select form="how" name="{name}">{made}</select>'


def shell() -> bytes:
    """The page; nothing of any run is in it."""
    sorts = {name: name for name in SORTS}
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>Runs</title><style>{STYLE}{OWN}</style></head><body>",
        "<header><h1>Runs</h1></header>",
        '<p class="warn" id="fault" role="status"></p>',
        '<form id="how"><input type="search" name="filter" placeholder="words of names, states, '
        'key=value" aria-label="filter of runs">',
        f"<label>by {select('sort', sorts)}</label>",
        '<button type="button" id="none">choose none</button>',
        '<span class="note" id="number"></span></form>',
        '<div class="list" id="list" tabindex="0"><div class="rows" id="rows"></div></div>',
        '<div class="part" id="standings"></div>',
        "<h2>Curves</h2>",
        f'<div class="fields"><label>by {select("x", {axis: axis for axis in AXES})}</label>',
        '<label><input type="checkbox" form="how" name="log"> log scale</label>',
        f"<label>mean over {select('smooth', SMOOTH, '0.02')}</label>",
        '<input type="search" form="how" name="keys" placeholder="words of metrics" '
        'aria-label="metrics">',
        '<input type="hidden" form="how" name="left"><input type="hidden" form="how" name="right">',
        '<button type="button" id="whole">whole length</button></div>',
        '<p class="note">Draw along a curve to see that part alone.</p>',
        '<div class="part" id="charts"></div>',
        '<div class="part" id="events"></div>',
        '<div class="part" id="settings"></div>',
        '<div class="part" id="sessions"></div>',
        '<noscript><p class="warn">The board needs its script.</p></noscript>',
        '<script src="board.js"></script></body></html>\n',
    ]
    return "\n".join(parts).encode()
