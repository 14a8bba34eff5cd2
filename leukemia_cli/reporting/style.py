"""The look of every page and picture: colours by what they are for, in light and dark, and one style sheet."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', 'DejaVu Sans', Arial, sans-serif"


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """Colours by what they are for; `series` are told apart by people who see no red or no green.

    Text has a contrast of 4.5 at least on paper, and on `panel`, `alarm` and the fullest `shade`; lines have 3.
    Source: the palette follows Okabe and Ito (2008), https://jfly.uni-koeln.de/color/, darkened or lightened for contrast.
    """

    ink: str
    pale: str
    rule: str
    paper: str
    panel: str
    link: str
    alarm: str
    alarm_ink: str
    shade: str
    series: tuple[str, ...]

    def variables(self) -> str:
        """Give the colours as CSS declarations."""
        named = {f.name.replace("_", "-"): getattr(self, f.name) for f in fields(self) if f.name != "series"}
        named |= {f"s{i}": colour for i, colour in enumerate(self.series)}
        return "".join(f"--{name}:{colour};" for name, colour in named.items())


LIGHT = Theme(
    ink="#1b1d1f",
    pale="#55595e",
    rule="#c9cdd2",
    paper="#ffffff",
    panel="#f5f6f7",
    link="#0b5a94",
    alarm="#fdf3e7",
    alarm_ink="#8a3b00",
    shade="#86bce6",
    series=("#0072b2", "#c65500", "#00805d", "#a8487e", "#8a6a00", "#4f5358"),
)
DARK = Theme(
    ink="#e6e7e8",
    pale="#a9aeb4",
    rule="#42474d",
    paper="#15181b",
    panel="#1d2125",
    link="#8cc8f5",
    alarm="#2f2115",
    alarm_ink="#ffb677",
    shade="#1f5f96",
    series=("#56b4e9", "#f08a3c", "#2fc49a", "#e092bf", "#e3c54a", "#b4b9bf"),
)

_CSS = (
    "*{box-sizing:border-box}"
    f":root{{color-scheme:light dark;{LIGHT.variables()}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{DARK.variables()}}}}}"
    f"@media print{{:root{{color-scheme:light;{LIGHT.variables()}}}}}"
    """
html{font-size:100%;-webkit-text-size-adjust:100%;scroll-padding-top:1rem}
body{margin:0;padding:2.5rem 1.5rem 4rem;background:var(--paper);color:var(--ink);line-height:1.6;
  font-family:FONT;font-variant-numeric:tabular-nums lining-nums;overflow-wrap:anywhere}
.sheet{display:grid;grid-template-columns:minmax(0,50rem);justify-content:center;gap:0 3.5rem}
header,main,footer{min-width:0}
h1,h2,h3{line-height:1.25;font-weight:600;text-wrap:balance}
h1{font-size:1.75rem;margin:0 0 .8rem;letter-spacing:-.01em}
h2{font-size:1.25rem;margin:0 0 .8rem}
h3{font-size:1rem;margin:1.8rem 0 .5rem}
p,ul,ol,dl,pre,figure{margin:0 0 1rem}
p,li,dd,figcaption{max-width:46rem}
a{color:var(--link);text-underline-offset:.15em}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:1px}
.skip{position:absolute;left:-99rem;top:.5rem;background:var(--paper);padding:.4rem .8rem;z-index:1}
.skip:focus{left:.5rem}
.over{color:var(--pale);font-size:.875rem;margin:0 0 .4rem}
.lead{font-size:1.125rem;line-height:1.5}
.pale,.use{color:var(--pale)}
.use{font-size:.9375rem;border-block:1px solid var(--rule);padding:.5rem 0}
.alarm{background:var(--alarm);border-left:.3rem solid var(--alarm-ink);padding:.9rem 1.1rem .2rem;margin:0 0 1.4rem}
.alarm h2{font-size:1rem;margin:0 0 .4rem;color:var(--alarm-ink)}
.alarm ul{padding-left:1.1rem}
.alarm li{margin-bottom:.35rem}
nav{font-size:.875rem;line-height:1.4;margin:0 0 1.5rem}
nav h2{font-size:.875rem;margin:0 0 .5rem}
nav ol{list-style:none;padding:0;margin:0;columns:2;column-gap:2rem}
nav li{padding:.16rem 0;break-inside:avoid}
nav a{color:var(--ink);text-decoration-color:var(--rule)}
main>section{border-top:1px solid var(--rule);padding:1.8rem 0 .8rem}
main>section:first-child{border-top:0;padding-top:.6rem}
.wide{overflow-x:auto;margin:0 0 1rem;max-width:100%}
table{border-collapse:collapse;font-size:.9375rem;line-height:1.4;overflow-wrap:break-word}
table bdi{overflow-wrap:anywhere}
td:has(bdi){min-width:4.5rem}
caption{text-align:left;color:var(--pale);font-size:.875rem;padding:0 0 .5rem}
thead th{border-bottom:1.5px solid var(--ink);vertical-align:bottom;font-weight:600}
th,td{padding:.3rem .9rem .3rem 0;text-align:left;vertical-align:top;font-weight:400}
tbody tr+tr>*{border-top:1px solid var(--rule)}
th:last-child,td:last-child{padding-right:.2rem}
tbody th{min-width:7rem;max-width:18rem}
tbody th:nth-last-child(2){min-width:15rem}
.number{text-align:right;white-space:nowrap}
tr.kept>*{font-weight:600}
sup{line-height:0;font-size:.75em}
sup a{text-decoration:none;padding:0 .12em}
.notes{color:var(--pale);font-size:.875rem;padding-left:1.4rem}
.notes li{margin-bottom:.2rem}
dl{display:grid;grid-template-columns:minmax(8rem,13rem) minmax(0,1fr);gap:.25rem 1.2rem}
dt{color:var(--pale)}
dd{margin:0}
pre{background:var(--panel);padding:.7rem .9rem;font-size:.8125rem;line-height:1.5;white-space:pre-wrap;
  font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
details{margin:0 0 1rem}
summary{cursor:pointer;color:var(--link);padding:.2rem 0;width:fit-content}
details>*:nth-child(2){margin-top:.6rem}
figure{margin:0 0 1.6rem}
figure svg{display:block;width:100%;max-width:30rem;height:auto;margin-left:-.4rem;break-inside:avoid}
figcaption{font-size:.875rem;line-height:1.5;margin-top:.5rem}
figcaption b{font-weight:600}
.panels{gap:.9rem 1.6rem}
.pair{gap:0 1.6rem}
.panels,.pair{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr))}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,10.5rem),1fr));gap:1.2rem;padding:0;
  list-style:none}
.pictures li{font-size:.8125rem;line-height:1.4;break-inside:avoid}
.pictures img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--panel);margin-bottom:.4rem}
.pictures .two{display:grid;grid-template-columns:1fr 1fr;gap:.3rem}
footer{border-top:1px solid var(--rule);padding-top:1rem;color:var(--pale);font-size:.875rem}
svg .ink{fill:var(--ink)} svg .pale{fill:var(--pale)} svg .paper{fill:var(--paper)} svg .shade{fill:var(--shade)}
svg .bar{fill:var(--rule)}
svg .l-ink{stroke:var(--ink)} svg .l-pale{stroke:var(--pale)} svg .l-rule{stroke:var(--rule)}
SERIES
@media (min-width:44rem){.side{display:grid;grid-template-columns:minmax(0,27rem) minmax(0,1fr);gap:0 1.8rem}
  .side>figcaption{margin-top:.15rem}}
@media (min-width:76rem){.sheet{grid-template-columns:13rem minmax(0,50rem);grid-template-rows:auto 1fr auto}
  header,main,footer{grid-column:2}
  nav{grid-column:1;grid-row:1/span 2;position:sticky;top:2rem;align-self:start;max-height:calc(100vh - 4rem);
    overflow-y:auto;padding:.2rem}
  nav ol{columns:1}}
@media (max-width:32rem){body{padding:1.4rem .875rem 3rem}h1{font-size:1.45rem}.lead{font-size:1.0625rem}
  .wide table,caption{font-size:.8125rem}th,td{padding-right:.4rem}tbody th{min-width:4.2rem}
  tbody th:nth-last-child(2){min-width:7.5rem}
  dl{grid-template-columns:1fr;gap:0}dd{margin:0 0 .5rem}}
@media print{html{font-size:9pt}body{padding:0;line-height:1.45}nav,.skip{display:none}a{color:inherit;text-decoration:none}
  main>section{padding-top:1.2rem}.wide{overflow:visible}h2,h3,summary,caption{break-after:avoid}figcaption{break-before:avoid}
  tr,.alarm,.side,.panels{break-inside:avoid}details::details-content{content-visibility:visible;block-size:auto;height:auto}
  summary{color:var(--ink);list-style:none}.side{display:grid;grid-template-columns:8.5cm 1fr;gap:0 .8cm}
  .pair,.panels{grid-template-columns:1fr 1fr}figure svg{max-width:8.5cm}.pictures{grid-template-columns:repeat(6,1fr)}
  @page{margin:18mm 16mm}}
"""
).replace("FONT", FONT)
_SERIES_CSS = "".join(
    f"svg .f-s{i}{{fill:var(--s{i})}}svg .l-s{i}{{stroke:var(--s{i})}}" for i in range(len(LIGHT.series))
)
CSS = re.sub(r"\n\s*", "\n", _CSS.replace("SERIES", _SERIES_CSS)).strip()
