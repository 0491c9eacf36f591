"""Say how the page looks, and which keys it knows."""

CSS = """
.sharp img { image-rendering: pixelated; }
.sharp .grid-wrap { min-height: 0; }
.sharp .caption-label { max-width: 100%; white-space: normal; }
table.facts, table.facts tr, table.facts thead { border: none !important; }
table.facts { border-collapse: collapse; width: 100%; font-size: var(--text-md); table-layout: fixed; }
table.facts th, table.facts td {
  border: none; border-bottom: 1px solid var(--border-color-primary); padding: 4px 8px;
  text-align: left; vertical-align: top; overflow-wrap: anywhere; color: var(--body-text-color);
}
table.facts td.good { color: #146c2e; }
table.facts td.bad { color: #b3261e; }
.dark table.facts td.good { color: #7ee2a0; }
.dark table.facts td.bad { color: #ffb4ab; }
.said, .said li { color: var(--body-text-color); font-size: var(--text-sm); }
.said ul, ul.said { padding-left: 1.2em; list-style: disc; }
.mono textarea { font-family: var(--font-mono); font-size: var(--text-sm); }
"""

# Ctrl+Enter (or Cmd+Enter) presses the button of class "go" in the tab that is open.
KEYS = """
() => {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const buttons = [...document.querySelectorAll("button.go")];
    const shown = buttons.find((button) => button.offsetParent !== null && !button.disabled);
    if (shown) { event.preventDefault(); event.stopPropagation(); shown.click(); }
  }, true);
}
"""
