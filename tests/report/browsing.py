"""What a browser sees of a page: which texts are cut, lie over one another, or reach beyond the screen."""

from __future__ import annotations

from typing import Any

BEYOND = """() => {
  const scrolls = (one) => { for (let at = one; at; at = at.parentElement) {
    const overflow = getComputedStyle(at).overflowX;
    if ((overflow === 'auto' || overflow === 'scroll' || overflow === 'hidden') && at !== document.body) return true; }
    return false; };
  return [...document.querySelectorAll('body *')].filter((one) => {
    if (one.closest('svg') || one.closest('.unseen') || one.closest('.skip') || scrolls(one)) return false;
    const box = one.getBoundingClientRect();
    return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
  }).map((one) => one.outerHTML.slice(0, 120));
}"""
"""Elements that reach beyond the screen, other than inside what can be scrolled."""

OVERLAPPING = """(selector) => {
  const shown = [...document.querySelectorAll(selector)].filter((one) => one.getClientRects().length);
  const boxes = shown.map((one) => {
    const texts = document.createTreeWalker(one, NodeFilter.SHOW_TEXT), rects = [];
    while (texts.nextNode()) {
      const range = document.createRange();
      range.selectNodeContents(texts.currentNode);
      if (texts.currentNode.textContent.trim() && !texts.currentNode.parentElement.closest('.unseen'))
        rects.push(...range.getClientRects());
    }
    const box = { left: Math.min(...rects.map((r) => r.left)), right: Math.max(...rects.map((r) => r.right)),
      top: Math.min(...rects.map((r) => r.top)), bottom: Math.max(...rects.map((r) => r.bottom)) };
    return { text: one.textContent.trim(), box };
  });
  const found = [];
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const a = boxes[i].box, b = boxes[j].box;
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3.5)
      found.push(boxes[i].text + ' | ' + boxes[j].text);
  }
  return found;
}"""
"""Pairs of texts of a selection that lie over one another."""

SVG_TEXTS = """() => [...document.querySelectorAll('svg.picture')].filter(
    (one) => one.getClientRects().length).flatMap((svg) => {
  const whole = svg.viewBox.baseVal, found = [];
  const boxes = [...svg.querySelectorAll('text')].map((one) => ({ text: one.textContent, box: one.getBBox() }));
  boxes.forEach(({ text, box }, i) => {
    if (box.x < -1 || box.y < -1 || box.x + box.width > whole.width + 1 || box.y + box.height > whole.height + 1)
      found.push('outside: ' + text);
    boxes.slice(i + 1).forEach((other) => {
      if (Math.min(box.x + box.width, other.box.x + other.box.width) - Math.max(box.x, other.box.x) > 1.5
          && Math.min(box.y + box.height, other.box.y + other.box.height) - Math.max(box.y, other.box.y) > 3)
        found.push(text + ' | ' + other.text);
    });
  });
  return found;
})"""
"""Texts of pictures that lie over one another or outside of the picture."""


class Watched:
    """A page with all that it said and asked for while it was opened."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(address)

    def texts(self, selector: str) -> list[str]:
        """What is shown, an element a text."""
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]
