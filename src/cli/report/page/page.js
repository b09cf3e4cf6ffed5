"use strict";
(() => {
  let report = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  // An element with attributes, text and children; text never becomes markup.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child != null));
    return element;
  };

  // ---- numbers ----

  const exists = (x) => x != null && Number.isFinite(x);
  const compact = (x) => {
    const size = Math.abs(x);
    if (size >= 1e9) return trim(x / 1e9) + "G";
    if (size >= 1e6) return trim(x / 1e6) + "M";
    if (size >= 1e4) return trim(x / 1e3) + "k";
    return trim(x);
  };
  const trim = (x) => {
    if (x === 0) return "0";
    const size = Math.abs(x);
    if (size < 1e-3) return x.toExponential(1).replace(".0e", "e");
    return String(Number(x.toPrecision(size < 1 ? 3 : 4)));
  };
  const percent = (x) => {
    const of100 = 100 * x;
    return (Math.abs(of100) >= 99.95 ? of100.toFixed(0) : Math.abs(of100) >= 0.995 ? of100.toFixed(1) : of100.toFixed(2)).replace(/\.0+$/, "") + "\u00a0%";
  };
  const time = (seconds) =>
    seconds < 120 ? trim(seconds) + " s" : seconds < 7200 ? trim(seconds / 60) + " min" : trim(seconds / 3600) + " h";
  const whole = (x) => Math.round(x).toLocaleString("en");

  // ---- light and dark ----

  const root = document.documentElement;
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const applyTheme = () => {
    root.dataset.theme = chosen ?? (preferred.matches ? "dark" : "light");
  };
  applyTheme();
  const variable = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const PALETTE = 6;
  const colour = (run) => variable(`--run-${run % PALETTE}`);
  // Files are looked at on white paper, whatever the screen shows.
  const inLight = (draw) => {
    const theme = root.dataset.theme;
    root.dataset.theme = "light";
    try {
      return draw();
    } finally {
      root.dataset.theme = theme;
    }
  };

  // ---- what is drawn ----

  const FIGURES = [
    { id: "mlm_loss", title: "Masked tokens: loss", unit: "nats", guess: "unigram_loss" },
    { id: "mlm_accuracy", title: "Masked tokens: accuracy", show: percent, guess: "majority_accuracy" },
    { id: "nsp_loss", title: "Pairs: loss", unit: "nats", guess: "nsp_chance_loss" },
    { id: "nsp_accuracy", title: "Pairs: accuracy", show: percent, guess: "nsp_majority_accuracy" },
    { id: "lr", title: "Learning rate", zero: true, rough: false },
    { id: "grad_norm", title: "Gradient norm", unit: "before clipping" },
    { id: "tokens_per_second", title: "Throughput", unit: "tokens/s", zero: true },
    { id: "data_wait", title: "Waiting for data", unit: "of the time", show: percent, zero: true },
    { id: "stages", title: "Stages at work", unit: "of their time", show: percent, zero: true },
  ];
  const AXES = { step: ["step", compact], tokens: ["tokens", compact], seconds: ["time", time] };

  const state = { hidden: new Set(), axis: "step", smooth: 0.6, range: null, run: 0, step: 0, sample: 0, token: null };

  // Places on the axis of steps that are not all records: evaluations lie between two of them.
  const places = (run, steps) => {
    if (state.axis === "step") return steps;
    const known = run.curves.training.steps;
    const values = run.curves.training.figures[state.axis];
    return steps.map((step) => {
      const after = known.findIndex((k) => k >= step);
      if (after < 0) return values.at(-1) ?? null;
      if (known[after] === step) return values[after];
      const [k0, v0] = after === 0 ? [0, 0] : [known[after - 1], values[after - 1]];
      return v0 + ((values[after] - v0) * (step - k0)) / (known[after] - k0);
    });
  };

  // Exponential mean that does not begin at zero; gaps stay gaps.
  const smoothed = (values) => {
    let [mean, weight] = [0, 0];
    return values.map((value) => {
      if (!exists(value)) return null;
      mean = state.smooth * mean + (1 - state.smooth) * value;
      weight = state.smooth * weight + (1 - state.smooth);
      return mean / weight;
    });
  };

  // The lines of a figure: { run, label, kind, xs, ys }, xs ascending, null in ys where there is a gap. Where ys are
  // smoothed, raw holds what was recorded: figures and files tell that.
  const lines = (figure) => {
    const found = [];
    report.runs.forEach((run, index) => {
      if (state.hidden.has(run.name)) return;
      const add = (label, kind, xs, ys, nth = 0, raw = ys) => {
        const kept = xs.map((x, i) => i).filter((i) => exists(xs[i]));
        if (kept.some((i) => exists(ys[i]))) {
          const line = { run: index, name: run.name, label, kind, nth };
          found.push({ ...line, xs: kept.map((i) => xs[i]), ys: kept.map((i) => ys[i]), raw: kept.map((i) => raw[i]) });
        }
      };
      const { training, evaluations, stages } = run.curves;
      const xs = places(run, training.steps);
      const rough = (label, values, nth) => {
        if (state.smooth > 0 && figure.rough !== false) add(label, "faint", xs, values, nth);
        add(label, "training", xs, figure.rough === false ? values : smoothed(values), nth, values);
      };
      if (figure.id === "stages") {
        Object.entries(stages).forEach(([stage, busy], nth) => rough(stage, busy, nth));
        return;
      }
      rough("training", training.figures[figure.id] ?? []);
      const held = evaluations.figures[figure.id];
      if (held?.some(exists)) add("held out", "test", places(run, evaluations.steps), held);
      if (figure.guess) {
        const of = evaluations.figures[figure.guess]?.some(exists) ? evaluations : training;
        const guesses = (of.figures[figure.guess] ?? []).filter(exists);
        const ends = [xs.find(exists), xs.findLast(exists)];
        if (guesses.length && exists(ends[0])) {
          const mean = guesses.reduce((a, b) => a + b) / guesses.length;
          add("guessing", "guess", ends, [mean, mean]);
        }
      }
    });
    return found;
  };

  const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3]];
  const style = (line) => ({
    training: { width: 1.75, dash: DASHES[line.nth % DASHES.length] },
    faint: { width: 1, alpha: 0.25 },
    test: { width: 1.25, dash: [4, 3], dots: true },
    guess: { width: 1.25, dash: [1.5, 3] },
    plain: { width: 1.75 },
  })[line.kind];

  // ---- charts ----

  const charts = [];

  // A chart of `spec` = { id, title, unit, show, zero, log, stepped, x: [name, show], lines: () => [...] }.
  class Chart {
    constructor(spec, parent) {
      this.spec = spec;
      this.readout = make("div", { class: "readout" });
      this.plot = make("div", { class: "plot" });
      const save = (kind, what) =>
        make("button", { type: "button", title: `save as ${kind}`, onclick: () => download(`${spec.id}.${kind}`, what()) }, kind.toUpperCase());
      this.box = make(
        "figure",
        { class: "figure", id: `figure-${spec.id}`, style: "margin:0" },
        make(
          "h3",
          {},
          make("span", {}, spec.title),
          make("small", {}, spec.unit ?? ""),
          make("span", { class: "save" }, save("svg", () => this.svg()), save("csv", () => this.csv())),
        ),
        this.readout,
        this.plot,
      );
      parent.append(this.box);
      this.resize = new ResizeObserver(() => this.u?.setSize(this.size()));
      this.resize.observe(this.plot);
    }

    size() {
      const width = Math.max(200, this.plot.clientWidth || 480);
      return { width, height: Math.round(Math.min(280, Math.max(190, width * 0.5))) };
    }

    show() {
      return this.spec.show ?? compact;
    }

    draw() {
      this.u?.destroy();
      this.u = null;
      this.plot.replaceChildren();
      this.lines = this.spec.lines();
      if (!this.lines.length) {
        this.readout.replaceChildren();
        this.plot.append(make("p", { class: "empty" }, "Nothing was recorded."));
        return;
      }
      const data = uPlot.join(this.lines.map((line) => [line.xs, line.ys]));
      const [xName, xShow] = this.spec.x();
      const ink = variable("--soft");
      const axis = { stroke: ink, grid: { stroke: variable("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
      const label = { label: xName, labelSize: 18, labelFont: "12px system-ui, sans-serif" };
      const series = this.lines.map((line) => {
        const { width, dash, alpha, dots } = style(line);
        return {
          label: `${line.name} ${line.label}`,
          stroke: colour(line.run),
          width,
          dash,
          alpha: alpha ?? 1,
          points: { show: dots ? true : undefined, size: 6, fill: colour(line.run) },
          paths: this.spec.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
        };
      });
      this.u = new uPlot(
        {
          ...this.size(),
          scales: {
            x: { time: false, distr: this.spec.log ? 3 : 1, ...(this.spec.shared && state.range ? { min: state.range[0], max: state.range[1] } : {}) },
            y: { distr: this.spec.log ? 3 : 1, range: this.spec.log ? undefined : (u, low, high) => this.range(low, high) },
          },
          legend: { show: false },
          cursor: {
            drag: { x: true, y: false },
            points: { size: 7 },
            sync: this.spec.shared ? { key: "steps", scales: ["x", null] } : undefined,
          },
          axes: [
            { ...axis, ...label, size: 26, labelGap: 0, space: 60, values: (u, at) => at.map((x) => (x == null ? "" : xShow(x))) },
            { ...axis, size: 58, values: (u, at) => at.map((y) => (y == null ? "" : this.show()(y))) },
          ],
          series: [{}, ...series],
          hooks: {
            setCursor: [(u) => this.tell(u.cursor.idx == null ? null : u.data[0][u.cursor.idx])],
            setScale: [(u, key) => key === "x" && this.spec.shared && this.zoomed(u)],
          },
        },
        data,
        this.plot,
      );
      this.tell(null);
    }

    range(low, high) {
      if (!exists(low) || !exists(high)) return [0, 1];
      const from = this.spec.zero ? 0 : low;
      const room = (high - from || Math.abs(high) || 1) * 0.06;
      return [this.spec.zero ? 0 : from - room, high + room];
    }

    // One range for all charts over steps.
    zoomed(u) {
      const { min, max } = u.scales.x;
      if (Chart.zooming || !exists(min)) return;
      Chart.zooming = true;
      const ends = [u.data[0][0], u.data[0].at(-1)];
      state.range = min <= ends[0] && max >= ends[1] ? null : [min, max];
      for (const chart of charts) {
        if (chart.u && chart.u !== u && chart.spec.shared) chart.u.setScale("x", { min, max });
      }
      Chart.zooming = false;
    }

    // Values at `x`, or the last ones.
    tell(x) {
      const parts = [];
      if (x != null) parts.push(make("span", {}, `${this.spec.x()[0]} `, make("b", {}, this.spec.x()[1](x))));
      for (const line of this.lines) {
        if (line.kind === "faint") continue;
        const values = line.raw ?? line.ys;
        // The last value of a distribution says nothing.
        const resting = this.spec.shared ? values.findLastIndex(exists) : -1;
        const at = x == null ? resting : nearest(line, x);
        if (x != null && (at < 0 || !exists(values[at]))) continue;
        const several = report.runs.length - state.hidden.size > 1;
        const dash = line.kind === "guess" ? "dotted" : style(line).dash?.length ? "dashed" : "solid";
        parts.push(
          make(
            "span",
            {},
            make("i", { style: `border-top-color:${colour(line.run)};border-top-style:${dash}` }),
            several ? `${line.name} ${line.label} ` : `${line.label} `,
            at < 0 ? "" : make("b", {}, this.show()(values[at])),
          ),
        );
      }
      this.readout.replaceChildren(...parts);
    }

    csv() {
      const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
      const told = this.lines.filter((line) => line.kind !== "faint");
      const data = uPlot.join(told.map((line) => [line.xs, line.raw ?? line.ys]));
      const rows = [[this.spec.x()[0], ...told.map((line) => `${line.name} ${line.label}`)].map(quote)];
      data[0].forEach((x, i) => rows.push([x, ...data.slice(1).map((column) => column[i] ?? "")]));
      return new Blob([rows.map((row) => row.join(",") + "\n").join("")], { type: "text/csv" });
    }

    svg() {
      const text = inLight(() => this.drawing());
      return new Blob([text], { type: "image/svg+xml" });
    }

    // The chart as it stands, as SVG.
    drawing() {
      const escape = (s) => s.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
      const told = this.lines.filter((line) => line.kind !== "faint");
      const [width, left, right, top, plot] = [820, 70, 20, 40, 320];
      const legend = told.length * 20 + 10;
      const height = top + plot + 48 + legend;
      const { log } = this.spec;
      const bend = (v) => (log ? Math.log10(v) : v);
      const [x, y] = [this.u.scales.x, this.u.scales.y];
      const part = (scale, v) => (bend(v) - bend(scale.min)) / (bend(scale.max) - bend(scale.min) || 1);
      const px = (v) => left + part(x, v) * (width - left - right);
      const py = (v) => top + plot - part(y, v) * plot;
      const [xName, xShow] = this.spec.x();
      const inside = (scale) => (v) => v >= scale.min && v <= scale.max;
      const out = [];
      out.push(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="13">`);
      out.push(`<rect width="100%" height="100%" fill="white"/>`);
      out.push(`<text x="${left}" y="24" font-size="16" font-weight="bold">${escape(this.spec.title)}${this.spec.unit ? ` <tspan font-weight="normal" fill="#5b6470">${escape(this.spec.unit)}</tspan>` : ""}</text>`);
      for (const v of ticks(y, log).filter(inside(y))) {
        out.push(`<line x1="${left}" x2="${width - right}" y1="${py(v).toFixed(1)}" y2="${py(v).toFixed(1)}" stroke="#e2e4e8"/>`);
        out.push(`<text x="${left - 8}" y="${(py(v) + 4).toFixed(1)}" text-anchor="end" fill="#5b6470">${escape(this.show()(v))}</text>`);
      }
      for (const v of ticks(x, log).filter(inside(x))) {
        out.push(`<line x1="${px(v).toFixed(1)}" x2="${px(v).toFixed(1)}" y1="${top}" y2="${top + plot}" stroke="#eef0f2"/>`);
        out.push(`<text x="${px(v).toFixed(1)}" y="${top + plot + 18}" text-anchor="middle" fill="#5b6470">${escape(xShow(v))}</text>`);
      }
      out.push(`<text x="${(left + width - right) / 2}" y="${top + plot + 38}" text-anchor="middle" fill="#5b6470">${escape(xName)}</text>`);
      out.push(`<clipPath id="c"><rect x="${left}" y="${top}" width="${width - left - right}" height="${plot}"/></clipPath><g clip-path="url(#c)" fill="none" stroke-linejoin="round">`);
      for (const line of this.lines) {
        const { width: stroke, dash, alpha, dots } = style(line);
        let [path, pen] = ["", "M"];
        let last = null;
        line.xs.forEach((at, i) => {
          if (!exists(line.ys[i])) return (pen = "M");
          const [h, v] = [px(at).toFixed(1), py(line.ys[i]).toFixed(1)];
          if (this.spec.stepped && pen === "L") path += `H${h}`;
          path += this.spec.stepped && pen === "L" ? `V${v}` : `${pen}${h} ${v}`;
          [pen, last] = ["L", v];
        });
        const look = `stroke="${colour(line.run)}" stroke-width="${stroke}" opacity="${alpha ?? 1}"`;
        out.push(`<path d="${path}" ${look}${dash?.length ? ` stroke-dasharray="${dash.join(" ")}"` : ""}/>`);
        if (dots) {
          line.xs.forEach((at, i) => {
            if (exists(line.ys[i])) out.push(`<circle cx="${px(at).toFixed(1)}" cy="${py(line.ys[i]).toFixed(1)}" r="3" fill="${colour(line.run)}"/>`);
          });
        }
      }
      out.push("</g>");
      told.forEach((line, i) => {
        const at = top + plot + 62 + i * 20;
        const { width: stroke, dash } = style(line);
        out.push(`<line x1="${left}" x2="${left + 30}" y1="${at}" y2="${at}" stroke="${colour(line.run)}" stroke-width="${stroke}"${dash?.length ? ` stroke-dasharray="${dash.join(" ")}"` : ""}/>`);
        out.push(`<text x="${left + 38}" y="${at + 4}">${escape(`${line.name}: ${line.label}`)}</text>`);
      });
      out.push("</svg>");
      return out.join("\n") + "\n";
    }
  }

  const nearest = (line, x) => {
    let best = -1;
    line.xs.forEach((at, i) => {
      if (exists(line.ys[i]) && (best < 0 || Math.abs(at - x) < Math.abs(line.xs[best] - x))) best = i;
    });
    return best;
  };

  // Round places between the ends of a scale.
  const ticks = ({ min, max }, log) => {
    if (log) {
      const from = Math.floor(Math.log10(min));
      return Array.from({ length: Math.ceil(Math.log10(max)) - from + 1 }, (_, i) => 10 ** (from + i));
    }
    const rough = (max - min) / 6 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const first = Math.ceil(min / step - 1e-9);
    return Array.from({ length: Math.floor(max / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
  };

  const download = (name, blob) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  // ---- runs ----

  const last = (values) => values?.findLast(exists);

  const headlines = (run) => {
    const { training, evaluations } = run.curves;
    const held = evaluations.steps.length > 0;
    const of = held ? evaluations : training;
    const where = held ? "held out" : "training";
    const box = (text, show, value, guess) =>
      exists(value) ? make("div", {}, make("b", {}, show(value)), make("span", {}, text), make("span", {}, exists(guess) ? `guessing ${show(guess)}` : "")) : null;
    const perplexity = (loss) => compact(Number(Math.exp(loss).toPrecision(3)));
    const figures = of.figures;
    return make(
      "div",
      { class: "headline", title: `the last figures, ${where}` },
      box("masked tokens right", percent, last(figures.mlm_accuracy), last(figures.majority_accuracy)),
      box("perplexity", perplexity, last(figures.mlm_loss), last(figures.unigram_loss)),
      box("pairs right", percent, last(figures.nsp_accuracy), last(figures.nsp_majority_accuracy)),
      make("p", {}, held ? `held out, step ${whole(of.steps.at(-1))}` : "on training batches"),
    );
  };

  const drawRuns = () => {
    byId("subtitle").textContent = report.runs.map((run) => run.name).join(", ");
    document.title = `${report.runs.map((run) => run.name).join(", ")} - bertstream`;
    byId("runs").replaceChildren(
      ...report.runs.map((run, index) => {
        const reached = run.curves.training.steps.at(-1) ?? 0;
        const toggle = make("input", {
          type: "checkbox",
          checked: state.hidden.has(run.name) ? null : "",
          onchange: (event) => {
            if (event.target.checked) state.hidden.delete(run.name);
            else state.hidden.add(run.name);
            drawCharts();
          },
        });
        const facts = run.facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
        return make(
          "article",
          { class: "card", style: `--run:var(--run-${index % PALETTE})` },
          make(
            "h3",
            {},
            report.runs.length > 1 ? make("label", {}, toggle, run.name) : make("label", {}, make("span", { class: "dot" }), run.name),
            make("span", { class: "state" }, `step ${whole(reached)} of ${whole(run.total)}`),
          ),
          make("div", { class: "progress" }, make("div", { style: `width:${Math.min(100, (100 * reached) / (run.total || 1))}%` })),
          headlines(run),
          make("dl", {}, ...facts),
        );
      }),
    );
  };

  const flat = (value, path = "", into = {}) => {
    if (value !== null && typeof value === "object") {
      for (const [name, part] of Object.entries(value)) flat(part, path ? `${path}.${name}` : name, into);
    } else into[path] = value;
    return into;
  };

  const drawDifferences = () => {
    const configs = report.runs.map((run) => flat(run.config));
    const names = [...new Set(configs.flatMap(Object.keys))];
    const differing = names.filter((name) => new Set(configs.map((config) => JSON.stringify(config[name]))).size > 1);
    byId("differences").hidden = differing.length === 0;
    const cell = (value) => make("td", {}, value == null ? "-" : String(value));
    byId("differences")
      .querySelector("table")
      .replaceChildren(
        make("thead", {}, make("tr", {}, make("th", {}, ""), ...report.runs.map((run) => make("th", {}, run.name)))),
        make("tbody", {}, ...differing.map((name) => make("tr", {}, make("th", {}, name), ...configs.map((config) => cell(config[name]))))),
      );
  };

  const drawCharts = () => {
    charts.forEach((chart) => chart.draw());
    const thin = Math.max(...report.runs.map((run) => run.curves.records_a_point));
    byId("how").textContent =
      "Solid: training, dropout on, smoothed over what is drawn faint. Dashed with dots: held out, dropout off. Dotted: what guessing reaches. " +
      "Drag over a figure for a part of it, double-click for all." +
      (thin > 1 ? ` Up to ${thin} records share a point.` : "");
  };

  // ---- samples ----

  const CORRUPTIONS = { mask: "hidden", random: "replaced by a random token", keep: "kept, though predicted" };

  const special = (token) => /^(\[.+\]|<.+>)$/.test(token);
  // A token with the marks of subword vocabularies (## of WordPiece, \u0120 of BPE, \u2581 of Unigram) made faint.
  const spelled = (token) => {
    const [, mark, rest] = /^(##|[\u0120\u2581])?(.*)$/s.exec(token);
    return mark ? [make("span", { class: "joint" }, mark), rest] : [rest];
  };

  const drawSamples = () => {
    const run = report.runs[state.run];
    const options = (select, labels, chosen) =>
      select.replaceChildren(...labels.map((label, i) => make("option", { value: i, selected: i === chosen ? "" : null }, label)));
    options(byId("sample-run"), report.runs.map((r) => r.name), state.run);
    state.step = Math.min(state.step, Math.max(0, run.steps.length - 1));
    const step = run.steps[state.step];
    state.sample = Math.min(state.sample, Math.max(0, (step?.shown.length ?? 0) - 1));
    options(byId("sample-step"), run.steps.map((s) => whole(s.step)), state.step);
    byId("step-back").disabled = state.step === 0;
    byId("step-on").disabled = state.step >= run.steps.length - 1;
    byId("sample-back").disabled = state.sample === 0 && state.step === 0;
    byId("sample-on").disabled = !step || (state.sample >= step.shown.length - 1 && state.step >= run.steps.length - 1);
    byId("sample-number").textContent = step?.shown.length ? `sample ${state.sample + 1} of ${step.shown.length}` : "no sample";
    const sample = step?.shown[state.sample];
    byId("guesses").replaceChildren();
    if (!sample) {
      byId("sample-note").textContent = "";
      byId("sample").replaceChildren(make("p", { class: "empty" }, run.without ? `No samples: ${run.without}.` : "No samples yet."));
      return;
    }
    byId("sample-note").textContent =
      (step.of > step.shown.length ? `The first ${step.shown.length} of ${step.of} samples of step ${whole(step.step)}` : `All samples of step ${whole(step.step)}`) +
      `, made again from the corpus; guesses are those of the checkpoint of step ${whole(run.checkpoint)}. Choose a coloured token to see them.`;
    const predicted = new Map(sample.predicted.map((p) => [p.at, p]));
    const token = (text, at) => {
      const p = predicted.get(at);
      if (!p) return make("span", { class: special(text) ? "token special" : "token" }, ...spelled(text));
      const right = p.guesses[0]?.[0] === p.truth;
      const button = make(
        "button",
        {
          type: "button",
          class: `token ${p.corruption}`,
          "aria-pressed": "false",
          title: `${p.truth}: ${CORRUPTIONS[p.corruption]}`,
          onclick: () => {
            document.querySelectorAll("#sample button").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
            drawGuesses(p, text);
          },
        },
        ...(p.corruption === "random" ? [...spelled(text), "\u2190"] : []),
        ...spelled(p.truth),
        make("sup", {}, right ? "\u2713" : "\u2717"),
      );
      return button;
    };
    // What continues a word stands right behind it: marked by ##, or where beginnings are marked, by no mark.
    const marked = sample.tokens.some((t) => /^[\u0120\u2581]/.test(t));
    const continues = (t) => t.startsWith("##") || (marked && !special(t) && !/^[\u0120\u2581]/.test(t));
    const spaced = (from, to) => {
      const parts = [];
      for (let at = from; at < to; at++) {
        if (at > from && !continues(sample.tokens[at])) parts.push(" ");
        parts.push(token(sample.tokens[at], at));
      }
      return parts;
    };
    const pair = {
      is_next: "The second segment is the next one.",
      not_next: "The second segment is not the next one.",
      none: null,
    }[sample.pair];
    const sure = exists(sample.is_next) ? ` The model gives ${percent(sample.is_next)} to "is next".` : "";
    byId("sample").replaceChildren(
      make("p", { class: "pair" }, sample.place, make("br"), pair ? pair + sure : "One segment, no pair."),
      make("div", { class: "segment" }, ...spaced(0, sample.second)),
      ...(sample.second < sample.tokens.length ? [make("div", { class: "segment" }, ...spaced(sample.second, sample.tokens.length))] : []),
      make(
        "div",
        { class: "legend" },
        ...Object.entries(CORRUPTIONS).map(([kind, text]) => make("span", {}, make("span", { class: `token ${kind}` }, "word"), ` ${text}`)),
        make("span", {}, "\u2713 the model's first guess, \u2717 not"),
      ),
    );
    document.querySelector("#sample button")?.click();
  };

  const drawGuesses = (p, seen) => {
    const row = ([word, share]) =>
      make(
        "div",
        { class: word === p.truth ? "guess right" : "guess" },
        make("span", { class: "word", title: word }, word),
        make("span", { class: "track" }, make("div", { style: `width:${(100 * share).toFixed(1)}%` })),
        make("span", { class: "share" }, percent(share)),
      );
    const rows = p.guesses.map(row);
    if (!p.guesses.some(([word]) => word === p.truth)) rows.push(row([p.truth, p.probability]));
    const where = { mask: "hidden", random: `replaced by ${seen}`, keep: "kept" }[p.corruption];
    byId("guesses").replaceChildren(make("div", { class: "card" }, make("p", {}, make("b", {}, p.truth), ` was ${where}. The model guesses:`), ...rows));
  };

  const moveStep = (by) => {
    state.step = Math.max(0, Math.min(report.runs[state.run].steps.length - 1, state.step + by));
    state.sample = 0;
    drawSamples();
  };

  // Beyond the last sample of a step comes the next step.
  const moveSample = (by) => {
    const steps = report.runs[state.run].steps;
    const to = state.sample + by;
    if (to < 0 && state.step > 0) {
      state.step -= 1;
      state.sample = steps[state.step].shown.length - 1;
    } else if (to >= (steps[state.step]?.shown.length ?? 0) && state.step < steps.length - 1) {
      state.step += 1;
      state.sample = 0;
    } else {
      state.sample = Math.max(0, to);
    }
    drawSamples();
  };

  // ---- corpus ----

  const drawCorpus = () => {
    const known = report.runs.filter((run) => run.statistics);
    byId("corpus").hidden = known.length === 0;
    byId("statistics").replaceChildren(
      ...known.map((run) => {
        const s = run.statistics;
        const of = (part) => percent(part / (s.masked + s.randomised + s.kept || 1));
        const pairs = s.next + s.not_next;
        const rows = [
          ["counted", `${s.whole ? "all" : "the first"} ${whole(s.samples)} samples, ${whole(s.tokens)} tokens`],
          ["unknown", `${percent(s.unknown / (s.words || 1))} of the words`],
          ["predicted", `${percent((s.masked + s.randomised + s.kept) / (s.words || 1))} of the words: ${of(s.masked)} hidden, ${of(s.randomised)} random, ${of(s.kept)} kept`],
          ["is next", pairs ? `${percent(s.next / pairs)} of the pairs` : "no pair task"],
          ["padding", `${percent(s.padding_longest)} with rows as long as the longest, ${percent(s.padding_fixed)} with rows of full length`],
          ["vocabulary", `${whole(s.distinct)} of ${whole(s.vocabulary)} tokens came (${percent(s.distinct / (s.vocabulary || 1))}), ${whole(s.rare)} of them fewer than 10 times`],
        ];
        return make(
          "article",
          { class: "card", style: `--run:var(--run-${report.runs.indexOf(run) % PALETTE})` },
          make("h3", {}, make("span", { class: "dot" }), run.name),
          make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
          make("p", { class: "note", style: "margin:0.7rem 0 0.3rem" }, "Most frequent tokens"),
          make("div", { class: "words" }, ...s.frequent.map(([word, count]) => make("span", { title: `${whole(count)} times` }, word))),
        );
      }),
    );
  };

  // Lines over the statistics of the runs.
  const counted = (label, points) => () =>
    report.runs.flatMap((run, index) => {
      if (!run.statistics || state.hidden.has(run.name)) return [];
      const found = points(run.statistics);
      return [{ run: index, name: run.name, label, kind: "plain", nth: 0, xs: found.map((p) => p[0]), ys: found.map((p) => p[1]) }];
    });

  // ---- putting it together ----

  const draw = () => {
    drawRuns();
    drawDifferences();
    drawCharts();
    drawSamples();
    drawCorpus();
    byId("footer").textContent = `Made by bertstream ${report.version}. Charts: uPlot.`;
  };

  for (const figure of FIGURES) {
    charts.push(new Chart({ ...figure, shared: true, x: () => AXES[state.axis], lines: () => lines(figure) }, byId("charts")));
  }
  charts.push(
    new Chart(
      { id: "lengths", title: "Length of samples", unit: "samples", zero: true, stepped: true, x: () => ["tokens", compact], lines: counted("samples", (s) => s.lengths) },
      byId("corpus-charts"),
    ),
    new Chart(
      { id: "frequencies", title: "Frequency of tokens", unit: "times, by rank", log: true, x: () => ["rank", compact], lines: counted("counts", (s) => s.ranks) },
      byId("corpus-charts"),
    ),
  );

  byId("axis").onchange = (event) => {
    state.axis = event.target.value;
    state.range = null;
    drawCharts();
  };
  byId("smooth").oninput = (event) => {
    state.smooth = Number(event.target.value);
    drawCharts();
  };
  byId("reset").onclick = () => {
    state.range = null;
    drawCharts();
  };
  byId("theme").onclick = () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    applyTheme();
    drawCharts();
  };
  preferred.addEventListener("change", () => {
    applyTheme();
    drawCharts();
  });
  byId("sample-run").onchange = (event) => {
    [state.run, state.step, state.sample] = [Number(event.target.value), 0, 0];
    drawSamples();
  };
  byId("sample-step").onchange = (event) => {
    [state.step, state.sample] = [Number(event.target.value), 0];
    drawSamples();
  };
  byId("step-back").onclick = () => moveStep(-1);
  byId("step-on").onclick = () => moveStep(1);
  byId("sample-back").onclick = () => moveSample(-1);
  byId("sample-on").onclick = () => moveSample(1);
  draw();

  // ---- while the run goes on ----

  const EVERY = 5000;

  // What was made on request stays until it is made again.
  const renew = (found) => {
    found.runs.forEach((run, i) => {
      const before = report.runs[i];
      if (run.steps.length === 0 && before) for (const part of ["steps", "statistics", "checkpoint"]) run[part] = before[part];
    });
    report = found;
    draw();
  };

  const ask = async (what) => {
    const answer = await fetch(what, { cache: "no-store" });
    if (!answer.ok) throw new Error(await answer.text());
    return answer.text();
  };

  if (report.live) {
    let known = null;
    const live = make("span", { id: "live" }, "live");
    document.querySelector("h1").append(" ", live);
    const lookAgain = async () => {
      try {
        const text = await ask("data.json");
        if (text !== known) renew(JSON.parse(text));
        known = text;
        live.textContent = "live";
        live.classList.remove("lost");
      } catch {
        live.textContent = "not reached: the run has ended, or its machine is away";
        live.classList.add("lost");
      }
      setTimeout(lookAgain, EVERY);
    };
    setTimeout(lookAgain, EVERY);
    const button = make("button", { type: "button", id: "make-samples" }, "make samples and guesses now");
    button.onclick = async () => {
      button.disabled = true;
      byId("sample-note").textContent = "The last checkpoint is read, on one thread beside the training ...";
      try {
        renew(JSON.parse(await ask("samples.json")));
      } catch (error) {
        byId("sample-note").textContent = error.message;
      }
      button.disabled = false;
    };
    byId("browser").querySelector(".bar").append(button);
  }
})();
