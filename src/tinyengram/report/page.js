"use strict";
// What the page does beyond being read: state in the address, toggled arms, copying. Everything is there without it.
window.tinyengramState = (() => {
  const listeners = [];
  const read = () => {
    const [anchor, ...pairs] = location.hash.slice(1).split("&");
    return { anchor, values: new URLSearchParams(pairs.join("&")) };
  };
  addEventListener("hashchange", () => listeners.forEach((listener) => listener()));
  return {
    get: (key) => read().values.get(key) || "",
    set: (key, value) => {
      const { anchor, values } = read();
      if (value) values.set(key, value); else values.delete(key);
      const said = values.toString();
      history.replaceState(null, "", "#" + anchor + (said ? "&" + said : ""));
    },
    onChange: (listener) => { listeners.push(listener); listener(); },
  };
})();
(() => {
  const state = window.tinyengramState;
  const chips = [...document.querySelectorAll("[data-toggles]")].map((name) => {
    const chip = document.createElement("button"); // Without a script a name is a name, not a button that does nothing.
    chip.type = "button";
    chip.className = name.className;
    chip.dataset.toggles = name.dataset.toggles;
    chip.append(...name.childNodes);
    name.replaceWith(chip);
    return chip;
  });
  const show = () => {
    const hidden = new Set(state.get("without").split(",").filter(Boolean).map(decodeURIComponent));
    chips.forEach((chip) => chip.setAttribute("aria-pressed", String(!hidden.has(chip.dataset.toggles))));
    document.querySelectorAll("svg [data-arm]").forEach((mark) => mark.classList.toggle("off", hidden.has(mark.dataset.arm)));
  };
  chips.forEach((chip) => chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    const hidden = chips.filter((one) => one.getAttribute("aria-pressed") === "false");
    state.set("without", hidden.map((one) => encodeURIComponent(one.dataset.toggles)).join(","));
    show();
  }));
  const arrive = () => {
    show();
    const name = decodeURIComponent(location.hash.slice(1).split("&")[0]);
    const place = name && (document.getElementById(name) || null);
    if (!place) return;
    const folded = document.getElementById("card." + name)?.closest("details");
    if (folded) folded.open = true;
    const seen = place.offsetParent === null ? document.getElementById("card." + name) || place : place;
    document.querySelectorAll(".arrived").forEach((one) => one.classList.remove("arrived"));
    seen.classList.add("arrived");
    if (seen !== place || location.hash.includes("&")) seen.scrollIntoView({ block: "center" });
  };
  state.onChange(arrive);
  const said = document.getElementById("copied");
  const copy = async (text, what) => {
    try { await navigator.clipboard.writeText(text); said.textContent = what + " copied"; }
    catch { said.textContent = "Not allowed here: it is at the foot of the page"; }
  };
  document.querySelector(".actions").hidden = false;
  document.getElementById("copy-link").addEventListener("click", () => copy(location.href, "Link"));
  document.getElementById("copy-markdown").addEventListener("click", () =>
    copy(document.getElementById("markdown").textContent, "Markdown"));
  let folded = [];
  addEventListener("beforeprint", () => { folded = [...document.querySelectorAll("details:not([open])")]; folded.forEach((one) => { one.open = true; }); });
  addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));
})();
