"""Say how the page looks, and what it does beside gradio."""

import gradio as gr

# Text and buttons of the usual theme are too pale in light mode. These have a contrast of 4.5 or more.
THEME = gr.themes.Default().set(
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_title_text_color="*neutral_700",
    block_label_text_color="*neutral_700",
    input_placeholder_color="*neutral_600",
    input_placeholder_color_dark="*neutral_300",
    color_accent="*primary_700",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_cancel_background_fill="#b91c1c",
    button_cancel_background_fill_hover="#991b1b",
)
# Three sliders beside each other (.axis) have no room for the numbers at their ends.
CSS = """
.dark { --color-accent: #fb923c; }
.sharp img { image-rendering: pixelated; }
.sharp .grid-wrap { min-height: 0; }
.sharp .caption-label { max-width: 100%; white-space: normal; }
table.facts, table.facts tr, table.facts thead { border: none !important; }
#heads-grid .grid-container { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)) !important; }
#heads-grid .thumbnail-item { display: flex; flex-direction: column; height: auto; aspect-ratio: auto; }
#heads-grid .thumbnail-item img { height: auto; aspect-ratio: 1; }
#heads-grid .caption-label { position: static; width: 100%; border: none; }
#heads-grid .caption-label { text-align: left; overflow-wrap: anywhere; }
.axis :is(.min_value, .max_value) { display: none; } .axis input[type=range] { min-width: 0; }
.block:has(.axes) { background: var(--block-background-fill); padding-bottom: 0; }
:is(#heads-grid, #pictures) .grid-wrap { margin-top: 1.8rem; }
footer .divider:last-child, footer .divider:first-child { display: none; }
.bar { height: 6px; border-radius: 3px; overflow: hidden; background: var(--border-color-primary); }
.bar div { height: 100%; background: var(--color-accent); }
table.facts { border-collapse: collapse; width: 100%; font-size: var(--text-md); table-layout: fixed; }
table.facts th, table.facts td {
  border: none; border-bottom: 1px solid var(--border-color-primary); padding: 4px 8px;
  text-align: left; vertical-align: top; overflow-wrap: anywhere; color: var(--body-text-color);
}
@media (max-width: 560px) { table.facts tr > :first-child { width: 7.4rem; } }
table.facts td.good { color: #146c2e; }
table.facts td.bad { color: #b3261e; }
.dark table.facts td.good { color: #7ee2a0; }
.dark table.facts td.bad { color: #ffb4ab; }
.said, .said li { color: var(--body-text-color); font-size: var(--text-sm); }
.said ul, ul.said { padding-left: 1.2em; list-style: disc; }
.mono textarea { font-family: var(--font-mono); font-size: var(--text-sm); }
#search-best.sharp img { width: 100%; height: 100%; object-fit: contain; }
.job-state p, .job-state ul { margin: .3rem 0; } .job-state ul { padding-left: 1.2rem; }
.search-chart { --good: #146c2e; --bad: #b3261e; --run: #2563a8; }
.dark .search-chart { --good: #7ee2a0; --bad: #ffb4ab; --run: #7fb4ee; }
svg.search-chart { width: 100%; max-width: 520px; height: auto; font: 11px system-ui, sans-serif; }
.search-chart text { fill: currentColor; } .search-chart .axis { stroke: currentColor; opacity: .35; }
.search-chart .dot { fill: currentColor; opacity: .45; } .search-chart circle.best { fill: var(--good); }
.search-chart .curve { fill: none; stroke: var(--good); stroke-width: 2; }
.search-lanes { max-height: 26rem; overflow-y: auto; }
.search-lane { display: grid; grid-template-columns: 6.2rem minmax(3rem, 1fr) 12.5rem; gap: .5rem; }
.search-lane { font-size: .8rem; line-height: 1.35; align-items: center; }
.search-lane div { height: .7rem; border-radius: 2px; background: currentColor; opacity: .4; }
.search-lane .best { background: var(--good); opacity: 1; }
.search-lane .gone { background: var(--bad); opacity: .8; }
.search-lane .run { background: var(--run); opacity: .8; }
@media (max-width: 560px) { .search-lane { grid-template-columns: 5.4rem minmax(3rem, 1fr) 7.6rem; } }
.batch-table { --good: #146c2e; --bad: #b3261e; max-height: 24rem; overflow: auto; font-size: .85rem; }
.dark .batch-table { --good: #7ee2a0; --bad: #ffb4ab; }
.batch-table table { width: 100%; min-width: 32rem; border: none; border-collapse: collapse; }
.batch-table tr { border: none; }
.batch-table th { position: sticky; top: 0; background: var(--background-fill-primary); }
.batch-table :is(th, td) { padding: .25rem .5rem; border: none; text-align: left; vertical-align: top; }
.batch-table :is(th, td) { border-bottom: 1px solid var(--border-color-primary); }
.batch-table td { font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
.batch-table .right { color: var(--good); }
.batch-table :is(.wrong, .failed, .looks-wrong) { color: var(--bad); }
.batch-report iframe { width: 100%; height: 34rem; border: 1px solid var(--border-color-primary); }
"""

# Ctrl+Enter (or Cmd+Enter) presses the button of class "go" in the tab that is open.
# Where a text has a button to copy it, its label names that button, so the text gets a name of its own.
# The two pictures of a slider have one label, "first | second", and no names.
SCRIPT = """
() => {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const buttons = [...document.querySelectorAll("button.go")];
    const shown = buttons.find((button) => button.offsetParent !== null && !button.disabled);
    if (shown) { event.preventDefault(); event.stopPropagation(); shown.click(); }
  }, true);
  const name = () => {
    document.querySelectorAll("label.container").forEach((label) => {
      const text = label.querySelector("textarea, input");
      const words = label.querySelector("[data-testid=block-info]")?.textContent.trim();
      if (text && words && !text.labels.length) text.setAttribute("aria-label", words);
    });
    document.querySelectorAll(":is(#slider, #heads-pair)").forEach((pair) => {
      const words = pair.querySelector("[data-testid=block-label]")?.textContent.split("|") ?? [];
      pair.querySelectorAll("img").forEach((image, i) => { image.alt = words[i]?.trim() ?? ""; });
    });
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();
}
"""
