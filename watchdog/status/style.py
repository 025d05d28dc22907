"""The page's style sheet, kept in the page so that nothing is fetched; its hash is in the page's policy."""

CSS = """
:root { color-scheme: light dark; --ink: #16191d; --soft: #565e68; --paper: #ffffff; --line: #d5dae0;
  --HEALTHY: #14652f; --DEGRADED: #8a4b00; --OFFLINE: #b3161b; --ISOLATED: #6d1a9c; --UNKNOWN: #4a535d;
  --HEALTHY-bg: #e4f5e9; --DEGRADED-bg: #fff0d6; --OFFLINE-bg: #ffe6e5; --ISOLATED-bg: #f4e6fc; --UNKNOWN-bg: #eceff2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebee; --soft: #a3acb6; --paper: #14171a; --line: #353c44;
  --HEALTHY: #7bd897; --DEGRADED: #ffc266; --OFFLINE: #ff8f8a; --ISOLATED: #dba3ff; --UNKNOWN: #b9c2cc;
  --HEALTHY-bg: #14301d; --DEGRADED-bg: #3d2a08; --OFFLINE-bg: #471718; --ISOLATED-bg: #361649; --UNKNOWN-bg: #262c33; }
}
.HEALTHY { --on: var(--HEALTHY); --under: var(--HEALTHY-bg); }
.DEGRADED { --on: var(--DEGRADED); --under: var(--DEGRADED-bg); }
.OFFLINE { --on: var(--OFFLINE); --under: var(--OFFLINE-bg); }
.ISOLATED { --on: var(--ISOLATED); --under: var(--ISOLATED-bg); }
.UNKNOWN { --on: var(--UNKNOWN); --under: var(--UNKNOWN-bg); }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.25rem 3rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
header { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: baseline; justify-content: space-between; }
h1 { font-size: 1.15rem; margin: .2rem 0; } header p { margin: .2rem 0; color: var(--soft); }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; } h3 { font-size: 1.1rem; margin: 0 0 .4rem; color: var(--on); }
.verdict { margin: .5rem 0; padding: .8rem 1rem; border-left: .5rem solid var(--on); background: var(--under); }
.verdict b { color: var(--on); font-size: 1.5rem; margin-right: .4rem; }
table { width: 100%; border-collapse: collapse; }
thead th { color: var(--soft); font-weight: 600; font-size: .85rem; white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: .55rem .8rem .55rem 0; border-bottom: 1px solid var(--line); }
th:nth-child(1) { min-width: 14rem; } th:nth-child(2) { min-width: 9rem; }
td:nth-child(3), td:nth-child(5) { white-space: nowrap; }
tbody th { padding-left: .7rem; border-left: .3rem solid var(--on); } thead th:first-child { padding-left: 1rem; }
td { font-variant-numeric: tabular-nums; }
small { display: block; color: var(--soft); font-weight: 400; font-size: .82rem; }
.word { display: inline-block; padding: .1rem .55rem; border: 1px solid var(--on); border-radius: .25rem;
  color: var(--on); background: var(--under); font-weight: 700; font-size: .88rem; white-space: nowrap; }
section { margin: .5rem 0; padding: .8rem 1rem; border: 1px solid var(--on); border-left-width: .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; font-variant-numeric: tabular-nums; }
.drift { margin: 0 0 .5rem; } .drift b { color: var(--OFFLINE); }
ul { padding-left: 1.2rem; } footer { margin-top: 2rem; color: var(--soft); font-size: .88rem; }
@media (max-width: 54rem) { thead { display: none; }
  tr, tbody th, td { display: block; border: 0; padding: .1rem .7rem; }
  tr { border-left: .3rem solid var(--on); border-bottom: 1px solid var(--line); padding: .5rem 0; }
  tbody th { border: 0; } td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
"""
