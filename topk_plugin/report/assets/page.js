"use strict";
/* Draws what the page's data says. Text from data only ever becomes textContent or canvas text. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const runColour = (run) => style(`--run-${run % 8}`);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const shown = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
    return String(+value.toPrecision(4));
  };
  const grouped = (step) => Math.round(step).toLocaleString("en-US");

  // --- what all charts share: the steps in view, the smoothing, the scale -------------------

  const [first, last] = data.steps;
  const view = { from: first, to: last, smoothing: 0.6, log: false };
  const drawn = []; // {range(), data(), rebuild()} of each chart and heatmap

  function setView(from, to) {
    if (!(to > from)) return;
    view.from = Math.max(first, from);
    view.to = Math.min(last, to);
    drawn.forEach((chart) => chart.range());
    controls.show();
  }

  const controls = (() => {
    const get = (id) => document.getElementById(id);
    const [smoothing, from, to] = [get("smoothing"), get("from"), get("to")];
    if (!smoothing) return { show() {} };
    const notches = 1000;
    const at = (input) => first + ((last - first) * input.value) / notches;
    smoothing.addEventListener("input", () => {
      view.smoothing = Number(smoothing.value);
      drawn.forEach((chart) => chart.data());
    });
    get("log").addEventListener("change", (event) => {
      view.log = event.target.checked;
      drawn.forEach((chart) => chart.rebuild());
    });
    const least = (last - first) / notches;
    from.addEventListener("input", () => setView(Math.min(at(from), view.to - least), view.to));
    to.addEventListener("input", () => setView(view.from, Math.max(at(to), view.from + least)));
    get("reset").addEventListener("click", () => setView(first, last));
    view.smoothing = Number(smoothing.value);
    return {
      show() {
        const notch = (step) => Math.round((notches * (step - first)) / (last - first || 1));
        from.value = notch(view.from);
        to.value = notch(view.to);
        get("in-view").textContent = `${grouped(view.from)} – ${grouped(view.to)}`;
      },
    };
  })();

  // --- curves -----------------------------------------------------------------------------

  function smoothed(values, weight) {
    let sum = 0;
    let count = 0;
    return values.map((value) => {
      if (value === null) return null;
      count += 1;
      sum = weight * sum + (1 - weight) * value;
      return sum / (1 - weight ** count);
    });
  }

  function drawChart(spec, place) {
    const figure = make("figure", "chart");
    const readout = make("p", "readout");
    const box = make("div");
    figure.append(make("h3", "", spec.title), box, readout);
    place.append(figure);
    const positive = spec.series.every((s) => s.y.every((v) => v === null || v > 0));
    let plot = null;

    const isSmoothed = (series) => spec.smooth && !series.thin && view.smoothing > 0;
    const table = () =>
      uPlot.join(
        spec.series.map((s) => [s.x, s.y, isSmoothed(s) ? smoothed(s.y, view.smoothing) : s.y])
      );
    const faint = (series) => series.thin || isSmoothed(series);

    function tell(u) {
      const { idx } = u.cursor;
      if (idx === null || idx === undefined) {
        readout.textContent = "";
        return;
      }
      const parts = spec.series
        .map((s, i) => [s, u.data[2 * i + 2][idx]])
        .filter(([s, value]) => !s.thin && value !== undefined)
        .map(([s, value]) => (spec.series.length > 1 ? `${s.name} ${shown(value)}` : shown(value)));
      readout.textContent = `step ${grouped(u.data[0][idx])}: ${parts.join(" · ")}`;
    }

    function noteView(u) {
      figure.dataset.from = u.scales.x.min;
      figure.dataset.to = u.scales.x.max;
    }

    function build() {
      if (plot) plot.destroy();
      const axis = { stroke: style("--faint"), grid: { stroke: style("--line"), width: 0.5 } };
      axis.ticks = axis.grid;
      axis.font = "11px system-ui, sans-serif";
      const lines = spec.series.flatMap((s) => {
        const colour = runColour(s.run);
        const few = s.x.length < 40;
        const line = { stroke: colour, points: { show: few && !s.thin, size: 4 } };
        return [
          { ...line, width: 1, alpha: 0.3, points: { show: false }, show: faint(s) },
          { ...line, width: 1.75, show: !s.thin },
        ];
      });
      const options = {
        width: box.clientWidth || 340,
        height: 190,
        legend: { show: false },
        cursor: {
          bind: { dblclick: () => () => setView(first, last) },
          drag: { x: true, y: false, dist: 8, setScale: false },
          // a synchronised drag would be taken for one of every chart
          sync: { key: "steps", filters: { pub: (type) => type.startsWith("mouse") && !/up|down/.test(type) } },
        },
        scales: { x: { time: false, range: () => [view.from, view.to] }, y: {} },
        axes: [
          { ...axis, size: 30, values: (u, ticks) => ticks.map((t) => (t >= 1e4 ? `${t / 1e3}k` : t)) },
          { ...axis, size: 56, values: (u, ticks) => ticks.map((t) => (t === null ? "" : shown(t))) },
        ],
        series: [{}, ...lines],
        hooks: { setCursor: [tell], setScale: [(u, key) => key === "x" && noteView(u)] },
      };
      if (view.log && positive) options.scales.y.distr = 3;
      // a drag over steps sets the view of all charts, and a double click takes it back
      options.hooks.setSelect = [
        (u) => {
          if (u.select.width < 8) return;
          const from = u.posToVal(u.select.left, "x");
          setView(from, u.posToVal(u.select.left + u.select.width, "x"));
          u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        },
      ];
      plot = new uPlot(options, table(), box);
      noteView(plot);
    }

    build();
    new ResizeObserver(() => {
      if (Math.abs(plot.width - box.clientWidth) > 1) {
        plot.setSize({ width: box.clientWidth, height: 190 });
      }
    }).observe(box);
    drawn.push({
      range: () => plot.setScale("x", { min: view.from, max: view.to }),
      data: () => {
        spec.series.forEach((s, i) => plot.setSeries(2 * i + 1, { show: faint(s) }));
        plot.setData(table());
        figure.dataset.smoothing = view.smoothing;
      },
      rebuild: build,
    });
  }

  // --- counts and rates over steps, as shades --------------------------------------------

  function drawHeatmap(spec, place) {
    const figure = make("figure", "heatmap");
    const readout = make("p", "readout", spec.about);
    const canvas = make("canvas");
    const title = make("h3");
    title.append(make("span", `swatch run-${spec.run % 8}`), spec.title);
    figure.append(title, canvas, readout);
    place.append(figure);
    const rows = spec.rows ? spec.rows.length : spec.edges.length - 1;
    const height = spec.rows ? Math.max(150, 17 * rows + 34) : 230;
    const left = spec.rows ? 96 : 52;
    const [top, bottom, right] = [8, 22, 8];
    let width = 0;
    const xOf = (step) => left + ((width - left - right) * (step - view.from)) / (view.to - view.from);
    const stepOf = (x) => view.from + ((view.to - view.from) * (x - left)) / (width - left - right);
    const span = height - top - bottom;
    const yOf = (value) => {
      const [low, high] = [spec.edges[0], spec.edges[rows]];
      return top + span * (1 - (value - low) / (high - low));
    };
    const columnAt = (step) => {
      let column = -1;
      spec.x.forEach((start, i) => {
        if (start <= step) column = i;
      });
      return step <= spec.end ? column : -1;
    };

    function draw() {
      width = canvas.clientWidth || 340;
      const scale = window.devicePixelRatio || 1;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
      const pen = canvas.getContext("2d");
      pen.scale(scale, scale);
      pen.font = "11px system-ui, sans-serif";
      pen.save();
      pen.beginPath();
      pen.rect(left, top, width - left - right, span);
      pen.clip();
      spec.x.forEach((start, i) => {
        const [x, end] = [xOf(start), xOf(i + 1 < spec.x.length ? spec.x[i + 1] : spec.end)];
        spec.z[i].forEach((value, row) => {
          if (!value) return;
          const share = Math.max(0, (value - spec.low) / (spec.high - spec.low || 1));
          pen.fillStyle = `rgba(${style("--heat")}, ${Math.min(1, share ** (spec.rows ? 1 : 0.7))})`;
          const y = spec.rows ? top + (span * row) / rows : yOf(spec.edges[row + 1]);
          pen.fillRect(x, y, Math.max(1, end - x - (spec.rows ? 1 : 0)), span / rows - (spec.rows ? 1 : 0));
        });
      });
      (spec.lines || []).forEach((line) => {
        pen.strokeStyle = style("--run-1");
        pen.lineWidth = 1.5;
        pen.setLineDash(line.dash);
        pen.beginPath();
        line.x.forEach((step, i) => {
          if (line.y[i] !== null) pen.lineTo(xOf(step), yOf(line.y[i]));
        });
        pen.stroke();
      });
      pen.restore();
      pen.fillStyle = style("--faint");
      pen.textBaseline = "middle";
      pen.textAlign = "right";
      if (spec.rows) {
        spec.rows.forEach((name, row) => {
          const text = name.length > 15 ? `${name.slice(0, 14)}…` : name;
          pen.fillText(text, left - 6, top + (span * (row + 0.5)) / rows);
        });
      } else {
        [0, 0.25, 0.5, 0.75, 1].forEach((part) => {
          const value = spec.edges[0] + part * (spec.edges[rows] - spec.edges[0]);
          pen.fillText(shown(+value.toPrecision(3)), left - 6, yOf(value));
        });
      }
      pen.textBaseline = "bottom";
      [0, 0.5, 1].forEach((part) => {
        pen.textAlign = ["left", "center", "right"][2 * part];
        const step = view.from + part * (view.to - view.from);
        pen.fillText(grouped(step), xOf(step), height - 4);
      });
      figure.dataset.from = view.from;
      figure.dataset.to = view.to;
    }

    canvas.addEventListener("pointermove", (event) => {
      const step = stepOf(event.offsetX);
      const column = columnAt(step);
      const part = (event.offsetY - top) / span;
      if (column < 0 || part < 0 || part >= 1 || step < view.from) return;
      const row = spec.rows ? Math.floor(part * rows) : rows - 1 - Math.floor(part * rows);
      const value = spec.z[column][row];
      const [low, high] = spec.rows ? [] : [spec.edges[row], spec.edges[row + 1]];
      const what = spec.rows
        ? `${spec.rows[row]}: ${value === null ? "none seen" : `${shown(100 * value)} % kept`}`
        : `${shown(100 * value)} % of scores in ${shown(low)} … ${shown(high)}`;
      readout.textContent = `step ${grouped(spec.steps[column])}: ${what}`;
    });
    canvas.addEventListener("pointerleave", () => {
      readout.textContent = spec.about;
    });
    draw();
    new ResizeObserver(() => {
      if (canvas.clientWidth !== width) draw();
    }).observe(canvas);
    drawn.push({ range: draw, data() {}, rebuild: draw });
  }

  // --- pictures along the run ---------------------------------------------------------------

  function drawSlider(spec, place, index) {
    const steps = [...new Set(spec.columns.flatMap((c) => c.frames.map((f) => f.step)))];
    steps.sort((a, b) => a - b);
    const box = make("div", "slider");
    const control = make("div", "control");
    const input = make("input");
    const output = make("output");
    const label = make("label", "", "step");
    input.id = `slider-${index}`;
    label.htmlFor = input.id;
    Object.assign(input, { type: "range", min: 0, max: steps.length - 1, step: 1 });
    input.value = steps.length - 1;
    control.append(label, input, output);
    const frames = make("div", "frames");
    const shownIn = spec.columns.map((column) => {
      const figure = make("figure");
      const image = make("img");
      const caption = make("figcaption");
      image.addEventListener("load", () => {
        // small pictures twice as large, or a phone's thumb covers them
        if (image.naturalWidth < 300) image.style.width = `${2 * image.naturalWidth}px`;
      });
      figure.append(caption, image);
      frames.append(figure);
      return [column, image, caption];
    });
    if (spec.heading) box.append(make("h3", "", spec.title));
    box.append(make("p", "faint", spec.about), control, frames);
    place.append(box);

    function show() {
      const step = steps[Number(input.value)];
      output.textContent = grouped(step);
      shownIn.forEach(([column, image, caption]) => {
        const before = column.frames.filter((frame) => frame.step <= step);
        const frame = before[before.length - 1] || column.frames[0];
        image.src = frame.src;
        image.alt = `${spec.title} of ${column.name} at step ${frame.step}`;
        const name = make("span", `swatch run-${column.run % 8}`);
        caption.replaceChildren(name, `${column.name}, step ${grouped(frame.step)}`);
      });
    }
    input.addEventListener("input", show);
    show();
  }

  document.querySelectorAll("[data-group]").forEach((place) => {
    const { group } = place.dataset;
    data.charts.filter((c) => c.group === group).forEach((c) => drawChart(c, place));
    data.heatmaps.filter((h) => h.group === group).forEach((h) => drawHeatmap(h, place));
    data.sliders.forEach((s, i) => s.group === group && drawSlider(s, place, i));
  });
  controls.show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawn.forEach((chart) => chart.rebuild());
  });
  document.documentElement.dataset.drawn = "yes";
})();
