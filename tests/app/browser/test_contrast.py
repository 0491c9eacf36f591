"""Text of the page can be read: its contrast with what is behind it is at least 4.5, as WCAG 2 asks for."""

import pytest

# Returns each text that is too pale: what it says, and its contrast.
PALE = """() => {
  const rgb = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const e = n.parentElement, text = n.textContent.trim(), style = getComputedStyle(e);
    if (!text || !e.checkVisibility() || e.closest('button:disabled, footer, script, style')) continue;
    if (e.getBoundingClientRect().width < 2) continue;
    const a = light(rgb(style.color)), b = light(behind(e));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(`${text.slice(0, 40)}: ${contrast.toFixed(1)}`);
  }
  return [...new Set(found)];
}"""


@pytest.mark.parametrize("name", ["Compare", "Explore", "Search", "Batch"])
def test_text_can_be_read(look, name):
    page, keep = look
    page.get_by_role("tab", name=name).click()
    page.wait_for_timeout(1500)
    keep(f"tab-{name.lower()}")
    assert page.evaluate(PALE) == []


def test_every_control_has_a_name(look):
    """A screen reader says what each control is."""
    page, _ = look
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, textarea, button, select')]
        .filter((e) => e.checkVisibility() && e.type !== 'hidden' && !e.closest('footer'))
        .filter((e) => !(e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')
          || e.textContent.trim() || e.title || e.placeholder))
        .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []


def test_the_page_fits_its_width(look):
    page, _ = look
    for name in ("Compare", "Explore", "Search", "Batch"):
        page.get_by_role("tab", name=name).click()
        page.wait_for_timeout(500)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, name
