"use strict";
(() => {
  const state = window.tinyengramState || { get: () => "", set: () => {}, onChange: (read) => read() };

  // A form's fields are the state under "<section>-<field>"; `show` hides and orders the section's cards by them.
  const section = (id, show) => {
    const form = document.getElementById(`${id}-filters`);
    const list = document.getElementById(`${id}-list`);
    const count = document.getElementById(`${id}-count`);
    if (!form || !list) return;
    const cards = [...list.children];
    const texts = cards.map((card) => card.textContent.toLowerCase());
    const said = count.textContent;
    const boxes = [...form.querySelectorAll("[name=only]")];
    const fields = [...form.elements].filter((one) => one.name && one.name !== "only" && one.name !== "open");
    const update = () => {
      const given = Object.fromEntries(fields.map((one) => [one.name, one.value]));
      given.only = boxes.filter((one) => one.checked).map((one) => one.value);
      const words = (given.find || "").toLowerCase().split(/\s+/).filter(Boolean);
      const fits = show(cards, given, form);
      let left = 0;
      cards.forEach((card, at) => {
        card.hidden = !(fits(card) && words.every((word) => texts[at].includes(word)));
        left += !card.hidden;
      });
      count.textContent = left === cards.length ? said : `${left} of the ${cards.length} on this page. ${said}`;
    };
    const read = () => {
      const only = (state.get(`${id}-only`) || "").split(",");
      boxes.forEach((one) => { one.checked = only.includes(one.value); });
      fields.forEach((one) => {
        const value = state.get(`${id}-${one.name}`) || "";
        one.value = one.options && ![...one.options].some((option) => option.value === value) ? "" : value;
      });
      update();
    };
    form.addEventListener("input", () => {
      fields.forEach((one) => state.set(`${id}-${one.name}`, one.value));
      state.set(`${id}-only`, boxes.filter((one) => one.checked).map((one) => one.value).join(","));
      update();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.elements.open.addEventListener("click", () => {
      const shown = cards.filter((card) => !card.hidden);
      const open = shown.some((card) => !card.open);
      shown.forEach((card) => { card.open = open; });
      form.elements.open.textContent = open ? "Close all" : "Open all";
    });
    form.hidden = false;
    state.onChange(read);
  };

  section("answers", (cards, given, form) => {
    const arm = given.arm ? form.elements.arm.selectedIndex : 0; // Column 0 is the base.
    const moved = (card) => {
      const each = card.dataset.moved.trim().split(" ").map(Number);
      return arm ? each[arm] : Math.max(...each);
    };
    const turns = (card) => (arm ? card.dataset.turns[arm] : card.dataset.turns.slice(1));
    const lost = (card) => [...turns(card)].filter((turn) => turn === "l").length;
    const by = {
      "": (one, other) => moved(other) - moved(one),
      lost: (one, other) => lost(other) - lost(one) || moved(other) - moved(one),
      asked: (one, other) => one.dataset.at - other.dataset.at,
    };
    const sorted = [...cards].sort(by[given.sort] || by[""]);
    const list = document.getElementById("answers-list");
    if (sorted.some((card, at) => list.children[at] !== card)) list.append(...sorted);
    cards.forEach((card) => {
      card.querySelectorAll("tr").forEach((row) => {
        [...row.cells].forEach((cell, at) => { cell.hidden = arm > 0 && at > 1 && at !== arm + 1; });
      });
    });
    return (card) =>
      (!given.set || card.dataset.set === given.set) &&
      (!given.prompt || card.dataset.prompt === given.prompt) &&
      (!given.only.length || /[^s]/.test(turns(card)));
  });

  section("calls", (cards, given) => (card) => given.only.every((one) => card.dataset.is.split(" ").includes(one)));
})();
