"use strict";
// What is wrong with how a page is laid out, measured in the page as it is now; run by browsing.py.
(() => {
  const ROOM = 1.5; // Pixels that glyphs and rounding may take.
  const CORE = 0.3; // Of a line's height above and below that holds no ink that anybody misses: lines may stand so close.
  const faults = [];
  const told = (node) => JSON.stringify(node.textContent.trim().slice(0, 50)) + " in " + where(node.parentElement);
  const where = (element) => {
    const named = element.closest("[id]");
    return element.tagName.toLowerCase() + (element.className.baseVal ?? element.className ? "." + (element.className.baseVal ?? element.className) : "")
      + (named ? " of #" + named.id : "");
  };
  const style = (element) => getComputedStyle(element);
  const scrolls = (element) => /auto|scroll/.test(style(element).overflowX);
  const ancestors = (element) => { const all = []; for (; element && element !== document.body; element = element.parentElement) all.push(element); return all; };
  const isRead = (element) => !element.closest(".unseen, .skip, title, desc, script, style, [popover]:not(:popover-open)")
    && element.checkVisibility({ visibilityProperty: true, opacityProperty: true });

  // A text and the boxes of its lines.
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.textContent.trim() || !isRead(node.parentElement)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    texts.push({ node, boxes: [...range.getClientRects()].filter((box) => box.width > 0.5) });
  }

  for (const { node, boxes } of texts) {
    const around = ancestors(node.parentElement);
    const inScroller = around.some(scrolls);
    if (boxes.length > 2 && node.textContent.trim().length < 3.5 * boxes.length) faults.push(told(node) + " is broken into letters");
    for (const box of boxes) {
      if (!inScroller && (box.right > innerWidth + ROOM || box.left < -ROOM)) faults.push(told(node) + " leaves the screen");
      // Text that is wider than the box it stands in, or cut by one that hides what is beyond it.
      const holder = around.find((one) => !(one instanceof SVGElement) && style(one).display !== "inline");
      const held = holder && !(node.parentElement instanceof SVGElement) && !scrolls(holder) ? holder.getBoundingClientRect() : null;
      if (held && (box.right > held.right + ROOM || box.left < held.left - ROOM)) faults.push(told(node) + " leaves its box " + where(holder));
      for (const one of around.filter((one) => /hidden|clip/.test(style(one).overflowX + style(one).overflowY) && !(one instanceof SVGElement))) {
        const edge = one.getBoundingClientRect();
        if (box.right > edge.right + ROOM || box.bottom > edge.bottom + ROOM || box.left < edge.left - ROOM || box.top < edge.top - ROOM)
          faults.push(told(node) + " is cut by " + where(one));
      }
    }
  }

  if (document.documentElement.scrollWidth > innerWidth + ROOM) faults.push("the page scrolls sideways: " + document.documentElement.scrollWidth);

  // No two texts one above the other: sorted from top to bottom, so each is held against few. What lies beyond a box
  // that scrolls is not seen with what lies beside that box.
  const seen = (node, box) => {
    let [left, right] = [box.left, box.right];
    for (const one of ancestors(node.parentElement).filter(scrolls)) {
      const edge = one.getBoundingClientRect();
      [left, right] = [Math.max(left, edge.left), Math.min(right, edge.right)];
    }
    const cut = box.height * CORE;
    return { node, left: left + ROOM, right: right - ROOM, top: box.top + cut, bottom: box.bottom - cut };
  };
  const cores = texts.flatMap(({ node, boxes }) => boxes.map((box) => seen(node, box))).filter((box) => box.right > box.left);
  cores.sort((one, other) => one.top - other.top);
  cores.forEach((one, at) => {
    for (let next = at + 1; next < cores.length && cores[next].top < one.bottom; next++) {
      const other = cores[next];
      if (other.node !== one.node && one.left < other.right && other.left < one.right && !sticks(one.node) && !sticks(other.node))
        faults.push(told(one.node) + " overlaps " + told(other.node));
    }
  });
  function sticks(node) { return ancestors(node.parentElement).some((one) => /sticky|fixed/.test(style(one).position)); }

  // Within a picture nothing is drawn beyond its edge.
  for (const picture of [...document.querySelectorAll("svg")].filter(isRead)) {
    const [left, top, width, height] = picture.getAttribute("viewBox").split(" ").map(Number);
    for (const part of picture.querySelectorAll("text, circle, rect, path, line")) {
      const box = part.getBBox();
      if (box.x < left - ROOM || box.y < top - ROOM || box.x + box.width > left + width + ROOM || box.y + box.height > top + height + ROOM)
        faults.push(`${part.tagName} ${JSON.stringify(part.textContent)} leaves the picture in ${where(picture)}`);
    }
  }
  return [...new Set(faults)];
})();
