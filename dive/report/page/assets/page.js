"use strict";
// What plotly lacks: the slider over τ/p, targets of pictures, themes, legends and buttons in HTML.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const data = JSON.parse(one("#data").textContent);
  const caches = data.sections["virtual-examples"] || [];
  const shots = ["many", "medium", "few"];
  const root = document.documentElement;
  const config = { responsive: true, displaylogo: false, displayModeBar: false, doubleClick: "reset" };

  // ---- figures: drawn when they come near the screen, in the colours of the theme

  let printed = false;
  const figures = new Map(); // id to {element, variant, hidden, relayout}

  function coloured(value) {
    // Figures carry light colours; nothing is looked for in long arrays, which are data.
    if (typeof value === "string") return (root.dataset.theme === "dark" && data.dark[value]) || value;
    if (Array.isArray(value)) return value.length > 40 ? value : value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, coloured(part)]));
  }

  function draw(figure) {
    const { data: traces, layout } = coloured(data.figures[figure.element.id][figure.variant]);
    for (const trace of traces) if (figure.hidden.has(trace.legendgroup)) trace.visible = false;
    if (figure.adjust) figure.adjust(traces, layout);
    for (const [path, value] of Object.entries(figure.relayout)) {
      const [axis, key] = path.split(".");
      layout[axis][key] = value;
    }
    if (printed) Object.assign(layout, { autosize: false, width: 640, height: 300 }); // fits A4 and Letter
    figure.drawn = true;
    return Plotly.react(figure.element, traces, layout, config);
  }

  const redraw = (figure) => figure.drawn && draw(figure);
  for (const element of all(".figure")) {
    const [variant] = Object.keys(data.figures[element.id]);
    figures.set(element.id, { element, variant, hidden: new Set(), relayout: {}, drawn: false });
  }
  const near = new IntersectionObserver(
    (seen) => {
      for (const { target, isIntersecting } of seen) {
        const figure = figures.get(target.id);
        if (isIntersecting && !figure.drawn) draw(figure);
      }
    },
    { rootMargin: "600px" },
  );

  // ---- buttons

  const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));
  const pressOnly = (button) => all("button", button.parentElement).forEach((b) => press(b, b === button));
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    const { figure: id, variant, relayout, group, view } = button.dataset;
    const figure = figures.get(id);
    if (variant !== undefined) {
      figure.variant = variant;
      pressOnly(button);
      draw(figure);
    } else if (relayout !== undefined) {
      figure.relayout = JSON.parse(relayout);
      pressOnly(button);
      draw(figure);
    } else if (group !== undefined) {
      const shown = figure.hidden.delete(group);
      if (!shown) figure.hidden.add(group);
      press(button, shown);
      draw(figure);
    } else if (view !== undefined) {
      pressOnly(button);
      showTarget(button.closest(".card"));
    }
  });

  // ---- theme: the system's until the button is pressed

  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  function setTheme(name) {
    root.dataset.theme = name;
    const button = one("#theme");
    button.textContent = name === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Change to the ${name === "dark" ? "light" : "dark"} theme`);
    press(button, name === "dark");
    figures.forEach(redraw);
  }
  const ofSystem = () => chosen || (system.matches ? "dark" : "light");
  system.addEventListener("change", () => setTheme(ofSystem()));
  one("#theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    setTheme(chosen);
  });
  function print(begins) {
    printed = begins;
    root.dataset.theme = begins ? "light" : ofSystem();
    for (const figure of figures.values()) {
      if (!figure.element.offsetParent) continue; // of a cache that is not chosen
      draw(figure);
      if (!begins) Plotly.Plots.resize(figure.element);
    }
  }
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));

  // ---- the slider

  function floats(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Float32Array(bytes.buffer); // little-endian, as every browser's machine
  }
  const grouped = (value, digits) =>
    value === null || !Number.isFinite(value)
      ? "–"
      : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

  function panel(element, place) {
    const cache = caches[place];
    const values = floats(cache.values);
    const ends = [];
    shots.reduce((start, shot) => (ends.push([start, start + cache.groups[shot]]), ends.at(-1)[1]), 0);
    const present = shots.filter((shot) => cache.groups[shot]);
    const slider = one(".ratio", element);
    const tau = one(".tau", element);
    const power = one(".power", element);
    const show = (name, text) => all(`[data-show=${name}]`, element).forEach((e) => (e.textContent = text));
    const [classes, means, curves] = ["classes", "groups", "curves"].map((n) => figures.get(`${n}-${place}`));
    const here = { position: cache.first, ratio: () => cache.ratios[here.position], cache };
    const row = () => values.subarray(here.position * cache.classes, (here.position + 1) * cache.classes);
    const parts = () => ends.map(([start, end]) => Array.from(row().subarray(start, end)));
    const heights = () => present.map((shot) => cache.shots[here.position][shot]);

    classes.adjust = (traces) => parts().forEach((y, shot) => (traces[shot + 1].y = y));
    means.adjust = (traces) => (traces[1].y = heights());
    curves.adjust = (traces, layout) => (layout.shapes[0].x0 = layout.shapes[0].x1 = here.ratio());

    function table() {
      const details = one("details", classes.element.closest(".plot"));
      if (!details.open) return;
      const current = row();
      const rows = cache.order.map((label, at) => {
        const line = document.createElement("tr");
        const cells = [cache.names[label], grouped(cache.counts[at], 0), grouped(current[at], 2)];
        cells.forEach((text, column) => {
          const cell = document.createElement(column ? "td" : "th");
          cell.textContent = text;
          line.append(cell);
        });
        return line;
      });
      one("tbody", details).replaceChildren(...rows);
    }
    one("details", classes.element.closest(".plot")).addEventListener("toggle", table);

    let waiting = false;
    function moved() {
      const at = here.position;
      const ratio = here.ratio();
      const { [at]: of } = cache.shots;
      const errors = cache.errors[at];
      const within = (name, digits) => (errors ? ` ± ${grouped(errors[name], digits)}` : "");
      slider.value = at;
      slider.setAttribute("aria-valuetext", `tau over p ${ratio}`);
      show("ratio", String(ratio));
      for (const shot of present) show(shot, grouped(of[shot], 1) + within(shot, 1));
      const found = heights();
      show("flatness", grouped(Math.max(...found) / Math.min(...found), 2));
      const nats = cache.information[at];
      const share = (100 * nats) / Math.log(cache.classes);
      show("information", `${grouped(nats, 3)}${within("information", 3)} nats · ${grouped(share, 1)} %`);
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        if (classes.drawn) Plotly.restyle(classes.element, { y: parts() }, [1, 2, 3]);
        if (means.drawn) Plotly.restyle(means.element, { y: [heights()] }, [1]);
        if (curves.drawn) {
          const x = here.ratio();
          Plotly.relayout(curves.element, { "shapes[0].x0": x, "shapes[0].x1": x });
        }
        table();
        all(`.of-cache[data-cache="${place}"] .card`).forEach(showTarget);
      });
    }
    const nearest = (ratio) =>
      cache.ratios.reduce(
        (best, one, at) =>
          Math.abs(Math.log(one / ratio)) < Math.abs(Math.log(cache.ratios[best] / ratio)) ? at : best,
        0,
      );
    const short = (value) => String(Number(value.toPrecision(4)));
    slider.addEventListener("input", () => {
      here.position = Number(slider.value);
      tau.value = short(here.ratio() * Number(power.value));
      show("note", "");
      moved();
    });
    function typed() {
      const asked = Number(tau.value) / Number(power.value);
      if (!(asked > 0) || !Number.isFinite(asked)) return show("note", "τ and p must be above 0.");
      here.position = nearest(asked);
      const exact = Math.abs(asked / here.ratio() - 1) < 1e-6;
      show("note", exact ? "" : `τ/p = ${short(asked)}: shown is the nearest position, ${here.ratio()}.`);
      moved();
    }
    tau.addEventListener("input", typed);
    power.addEventListener("input", typed);
    power.value = "0.5";
    tau.value = short(here.ratio() * 0.5);
    here.moved = moved;
    return here;
  }

  // ---- targets of pictures

  const logits = (data.sections.pictures || []).map((of) => of.map(floats));
  const most = 5;
  function showTarget(card) {
    const place = Number(card.closest(".of-cache").dataset.cache);
    const { cache, ratio } = panels[place];
    const label = Number(card.dataset.label);
    const view = all("[data-view]", card).findIndex((b) => b.getAttribute("aria-pressed") === "true");
    const length = cache.classes;
    const z = logits[place][Number(card.dataset.picture)].subarray(view * length, (view + 1) * length);
    const largest = z.reduce((a, b) => Math.max(a, b));
    const target = Array.from(z, (value) => Math.exp((value - largest) / ratio()));
    const total = target.reduce((a, b) => a + b);
    const order = target.map((_, at) => at).sort((a, b) => target[b] - target[a]);
    const chosen = order.slice(0, most);
    if (!chosen.includes(label)) chosen.splice(most - 1, 1, label);
    const shares = chosen.map((at) => [cache.names[at], target[at] / total, at === label ? "own" : ""]);
    const rest = 1 - shares.reduce((sum, [, share]) => sum + share, 0);
    if (length > chosen.length) shares.push([`${length - chosen.length} others`, Math.max(rest, 0), "others"]);
    const lines = shares.map(([name, share, kind]) => {
      const line = document.createElement("li");
      line.className = kind;
      line.style.setProperty("--share", share);
      for (const [tag, text] of [["span", name], ["b", share.toFixed(share < 0.0995 ? 3 : 2)]]) {
        const part = document.createElement(tag);
        part.textContent = text;
        line.append(part);
      }
      return line;
    });
    one(".target", card).replaceChildren(...lines);
  }

  // ---- begin

  const panels = all(".cache").map(panel);
  panels.forEach((here) => here.moved());
  const which = one("#which");
  if (which)
    which.addEventListener("change", () => {
      for (const part of all(".cache, .of-cache")) part.hidden = part.dataset.cache !== which.value;
      panels[which.value].moved();
    });
  setTheme(ofSystem());
  figures.forEach(({ element }) => near.observe(element));
})();
