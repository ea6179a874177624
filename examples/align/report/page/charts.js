// Charts: SVG, drawn anew for the width they have.

const kDashes = ['', '7 3', '2 3', '9 3 2 3', '4 2', '1 3'];
// Plain training is grey, so that protection stands out against it.
const kGreyArms = report.arms.length > 1 && report.arms[0].method === 'plain' ? 1 : 0;
const colour = (arm) => `--c:var(--c${arm < kGreyArms ? 0 : 1 + ((arm - kGreyArms) % 7)})`;

/// A card with a chart. `draw(width, root)` fills the root and returns the height.
function figure(title, note, description, draw) {
  const root = svg('svg', {role: 'img'});
  const holder = html('div', {}, root);
  const card =
      html('figure', {class: 'card'}, html('figcaption', {}, title, note ? html('small', {}, note) : null), holder);
  let drawn = 0;
  const redraw = () => {
    const width = Math.floor(holder.clientWidth);
    if (width < 40) return;
    drawn = width;
    root.replaceChildren(svg('title', {}, title), svg('desc', {}, description));
    const height = draw(width, root);
    root.setAttribute('viewBox', `0 0 ${width} ${height}`);
    root.setAttribute('height', height);
  };
  const resized = () => Math.floor(holder.clientWidth) !== drawn && redraw();
  new ResizeObserver(() => requestAnimationFrame(resized)).observe(holder);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  return card;
}

/// Takes the pointer over a rectangle. Its empty title keeps the browser from showing that of the chart.
function pointerArea(root, box, move, leave) {
  const area =
      svg('rect', {
        x: box.left,
        y: box.top,
        width: Math.max(0, box.right - box.left),
        height: Math.max(0, box.bottom - box.top),
        fill: 'transparent'
      },
          svg('title', {}));
  const hide = () => {
    leave();
    hideTooltip();
  };
  const at = (event) => {
    const bounds = root.getBoundingClientRect();
    move(event.clientX - bounds.left, event.clientY - bounds.top, event);
  };
  area.addEventListener('pointermove', at);
  area.addEventListener('pointerdown', at);
  area.addEventListener('pointerleave', hide);
  root.append(area);
  return area;
}

/// Axes with grid lines. \return scales and the box of the plot
function axes(root, width, height, {x, y, xLabel, yLabel, xFormat, yFormat, log}) {
  const yTicks = log ? logTicks(y[0], y[1]) : ticks(y[0], y[1], Math.max(2, Math.floor((height - 60) / 32)));
  const yTexts = yTicks.values.map((value) => yFormat(value, yTicks.decimals));
  const left = 12 + 6.6 * Math.max(2, ...yTexts.map((text) => text.length));
  const box = {left, right: width - 10, top: yLabel ? 24 : 10, bottom: height - (xLabel ? 40 : 24)};
  const toX = linear(x, [box.left, box.right]),
        toY = log ? logarithmic(y, [box.bottom, box.top]) : linear(y, [box.bottom, box.top]);
  const rough = ticks(x[0], x[1], 6);
  const widest = Math.max(...rough.values.map((value) => xFormat(value, rough.decimals).length)) * 6.6 + 22;
  const xTicks = ticks(x[0], x[1], Math.max(1, Math.min(8, Math.floor((box.right - box.left) / widest))));
  yTicks.values.forEach((value, i) => {
    root.append(
        svg('line', {class: 'gridline', x1: box.left, x2: box.right, y1: toY(value), y2: toY(value)}),
        svg('text', {x: box.left - 6, y: toY(value) + 4, 'text-anchor': 'end'}, yTexts[i]));
  });
  for (const value of xTicks.values) {
    const text = xFormat(value, xTicks.decimals), half = 3.3 * text.length;
    root.append(
        svg('line', {class: 'axis', x1: toX(value), x2: toX(value), y1: box.bottom, y2: box.bottom + 4}),
        svg('text',
            {x: Math.min(Math.max(toX(value), half), width - half), y: box.bottom + 17, 'text-anchor': 'middle'},
            text));
  }
  root.append(svg('line', {class: 'axis', x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom}));
  if (xLabel) root.append(svg('text', {x: box.right, y: box.bottom + 33, 'text-anchor': 'end'}, xLabel));
  if (yLabel) root.append(svg('text', {x: 0, y: 12}, yLabel));
  return {toX, toY, box};
}

let clipCount = 0;
function clipTo(root, box) {
  const id = 'clip' + clipCount++;
  root.append(svg('clipPath', {id}, svg('rect', {
                    x: box.left,
                    y: box.top - 2,
                    width: Math.max(0, box.right - box.left),
                    height: Math.max(0, box.bottom - box.top + 4)
                  })));
  return svg('g', {'clip-path': `url(#${id})`});
}

function pathOf(xs, ys, steps = false) {
  let text = '', open = false, last = 0;
  xs.forEach((x, i) => {
    if (!known(ys[i])) return void (open = false);
    if (steps && open) text += `L${x.toFixed(1)} ${last.toFixed(1)}`;
    text += `${open ? 'L' : 'M'}${x.toFixed(1)} ${ys[i].toFixed(1)}`;
    last = ys[i];
    open = true;
  });
  return text;
}

const stepText = (value) => (Number.isInteger(Math.round(value * 1e6) / 1e6) ? String(Math.round(value)) : '');
const decimalTick = (value, decimals) => minus(value.toFixed(decimals));
const percentTick = (value, decimals) => percent(value, Math.max(0, decimals - 2));

/// Curves over optimizer steps.
/// \param series  [{name, run, arm, dash, x, y}]
/// \param options  {format, unit, raw: whether to smooth, and show what was smoothed; zero, log: for values far apart;
/// steps, thin, height}
function lineChart(title, note, series, options) {
  series = series.filter((one) => one.y && one.y.some(known));
  if (series.length === 0) return null;
  const curves = series.map((one) => ({...one, curve: options.raw ? smooth(one.y) : one.y}));
  const all = curves.flatMap((one) => one.y.filter(known)).sort((a, b) => a - b);
  let y =
      options.raw && all.length > 100 ? [quantile(all, 0.004), quantile(all, 0.996)] : [all[0], all[all.length - 1]];
  y = extent([...y, ...curves.flatMap((one) => extent(one.curve))]);
  const log = options.log && all[0] > 0 && y[1] / y[0] > 20;
  if (log) {
    y = [y[0] / 1.5, y[1] * 1.5];
  } else {
    if (options.zero) y = [Math.min(0, y[0]), Math.max(0, y[1])];
    y = padded(y);
    if (options.zero && y[0] > -0.1 * y[1]) y[0] = 0;
  }
  let x = extent(curves.flatMap((one) => [one.x[0], one.x[one.x.length - 1]]));
  if (x[0] === x[1]) x = [x[0] - 1, x[1] + 1];
  const description =
      curves
          .map((one) => {
            const values = one.curve.filter(known);
            return `${one.name}: from ${options.format(values[0])} to ${options.format(values[values.length - 1])}`;
          })
          .join('; ');
  return figure(title, note, description, (width, root) => {
    const height = options.height || 220;
    const {toX, toY, box} = axes(root, width, height, {
      x,
      y,
      log,
      xLabel: 'optimizer step',
      yLabel: options.unit,
      xFormat: stepText,
      yFormat: options.tick || decimalTick
    });
    const clip = clipTo(root, box);
    for (const one of curves) {
      const xs = one.x.map(toX);
      const style = colour(one.arm);
      if (one.x.length === 1) {
        clip.append(svg('circle', {class: 'mark', 'data-run': one.run, style, cx: xs[0], cy: toY(one.y[0]), r: 4}));
        continue;
      }
      const heights = (values) => values.map((value) => (known(value) ? toY(value) : null));
      if (options.raw && one.curve !== one.y) {
        clip.append(svg('path', {class: 'raw', 'data-run': one.run, style, d: pathOf(xs, heights(one.y))}));
      }
      clip.append(svg('path', {
        class: options.thin ? 'curve thin' : 'curve',
        'data-run': one.run,
        style,
        'stroke-dasharray': one.dash || null,
        d: pathOf(xs, heights(one.curve), options.steps)
      }));
    }
    root.append(clip);
    const cursor = svg('line', {class: 'cursor', y1: box.top, y2: box.bottom, visibility: 'hidden'});
    root.append(cursor);
    pointerArea(root, box, (px, py, event) => {
      const step = x[0] + ((px - box.left) / (box.right - box.left)) * (x[1] - x[0]);
      let best = null;
      const rows = curves.map((one) => {
        const i = nearest(one.x, step);
        const distance = known(one.curve[i]) ? Math.abs(toY(one.curve[i]) - py) : Infinity;
        const row = {x: one.x[i], distance, text: [one.name, options.format(one.curve[i])]};
        if (options.raw && one.curve !== one.y) row.text[1] += ` (${options.format(one.y[i])})`;
        if (best === null || distance < best.distance) best = row;
        return row;
      });
      best.text[2] = curves.length > 1 ? 'nearest' : null;
      cursor.setAttribute('x1', toX(best.x));
      cursor.setAttribute('x2', toX(best.x));
      cursor.setAttribute('visibility', 'visible');
      const close = [...rows].sort((a, b) => a.distance - b.distance).slice(0, 12);
      showTooltip(
          `step ${best.x}`, rows.filter((row) => close.includes(row)).map((row) => row.text), event.clientX,
          event.clientY);
    }, () => cursor.setAttribute('visibility', 'hidden'));
    return height;
  });
}
function nearest(sorted, value) {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= value)
      low = middle;
    else
      high = middle;
  }
  return Math.abs(sorted[high] - value) < Math.abs(sorted[low] - value) ? high : low;
}

/// The mark of an arm, about (x, y).
function mark(arm, x, y, size = 6) {
  const style = colour(arm), point = (dx, dy) => `${(x + size * dx).toFixed(1)},${(y + size * dy).toFixed(1)}`;
  const shapes = [
    () => svg('circle', {cx: x, cy: y, r: size * 0.95}),
    () => svg('rect', {x: x - size * 0.85, y: y - size * 0.85, width: size * 1.7, height: size * 1.7}),
    () => svg('polygon', {points: [point(0, -1.15), point(1.1, 0.85), point(-1.1, 0.85)].join(' ')}),
    () => svg('polygon', {points: [point(0, -1.25), point(1.25, 0), point(0, 1.25), point(-1.25, 0)].join(' ')}),
    () => svg('polygon', {points: [point(0, 1.15), point(1.1, -0.85), point(-1.1, -0.85)].join(' ')}),
    () => svg('polygon', {
      points: [0, 1, 2, 3, 4, 5]
                  .map((i) => point(1.1 * Math.sin(i * Math.PI / 3), -1.1 * Math.cos(i * Math.PI / 3)))
                  .join(' ')
    }),
  ];
  return fill(shapes[arm % shapes.length](), {class: 'mark', style}, []);
}

/// What the models gained against what they cost.
/// \param groups  [{arm, label, runs, x: [of each seed], y: [...]}], those of an arm in the order of their line
/// \param bases  [{x, y}], of the models before training
/// \param measures  of x and y: {name, axis, format, spread, tick}
function scatterChart(title, groups, bases, [xMeasure, yMeasure]) {
  const points = groups.map(
      (group) => ({...group, mx: mean(group.x), my: mean(group.y), sx: deviation(group.x), sy: deviation(group.y)}));
  const x = padded(
      extent([...points.flatMap((p) => [...p.x, p.mx - p.sx, p.mx + p.sx]), ...bases.map((base) => base.x)]), 0.1);
  const y = padded(
      extent([...points.flatMap((p) => [...p.y, p.my - p.sy, p.my + p.sy]), ...bases.map((base) => base.y)]), 0.12);
  const value = (measure, middle, spread, count) =>
      measure.format(middle) + (count > 1 ? ` \u00b1 ${measure.spread(spread)}` : '');
  const text = (p) => [
      [xMeasure.name, value(xMeasure, p.mx, p.sx, p.x.length)],
      [yMeasure.name, value(yMeasure, p.my, p.sy, p.x.length)]];
  const description =
      points.map((p) => `${p.runs.join(', ')}: ${text(p).map((row) => row.join(' ')).join(', ')}`).join('; ');
  return figure(title, null, description, (width, root) => {
    const height = Math.round(Math.min(360, Math.max(270, width * 0.62)));
    const {toX, toY, box} = axes(
        root, width, height,
        {x, y, xLabel: xMeasure.axis, yLabel: yMeasure.axis, xFormat: xMeasure.tick, yFormat: yMeasure.tick});
    pointerArea(root, box, hideTooltip, () => {});
    const taken = [];
    const place = (label, px, py) => {
      const w = 6.3 * label.length + 4, h = 13;
      const spots = [[9, -4], [9, 13], [-9 - w, -4], [-9 - w, 13], [-w / 2, -11], [-w / 2, 20]];
      const free =
          spots.map(([dx, dy]) => ({left: px + dx, right: px + dx + w, top: py + dy - h + 2, bottom: py + dy + 2}))
              .find(
                  (b) => b.left >= box.left && b.right <= width && b.top >= box.top - 6 && b.bottom <= box.bottom &&
                      !taken.some((t) => b.left < t.right && b.right > t.left && b.top < t.bottom && b.bottom > t.top));
      if (!free) return null;
      taken.push(free);
      return svg('text', {class: 'label', x: free.left + 2, y: free.bottom - 2}, label);
    };
    const around = (px, py) => taken.push({left: px - 7, right: px + 7, top: py - 7, bottom: py + 7});
    for (const p of points) around(toX(p.mx), toY(p.my));
    for (const base of bases) around(toX(base.x), toY(base.y));

    for (const arm of new Set(points.map((p) => p.arm))) {
      const line = points.filter((p) => p.arm === arm);
      root.append(svg('path', {
        class: 'path',
        'data-arm': arm,
        style: colour(arm),
        d: pathOf(line.map((p) => toX(p.mx)), line.map((p) => toY(p.my)))
      }));
    }
    for (const base of bases) {
      const bx = toX(base.x), by = toY(base.y);
      const cross =
          svg('g', {class: 'point', tabindex: 0, role: 'img', 'aria-label': 'base model'}, svg('title', {}),
              svg('circle', {cx: bx, cy: by, r: 12, fill: 'transparent'}),
              svg('path', {d: `M${bx - 6} ${by}h12M${bx} ${by - 6}v12`, stroke: 'var(--text)', 'stroke-width': 2}));
      addHints(cross, () => ['base model, before training', [
                        [xMeasure.name, xMeasure.format(base.x)], [yMeasure.name, yMeasure.format(base.y)]
                      ]]);
      root.append(cross, place('base', bx, by) || '');
    }
    for (const p of points) {
      const px = toX(p.mx), py = toY(p.my);
      const g =
          svg('g', {
            class: 'point',
            'data-arm': p.arm,
            style: colour(p.arm),
            tabindex: 0,
            role: 'img',
            'aria-label': p.runs.join(', ')
          },
              svg('title', {}));
      if (p.x.length > 1) {
        const left = toX(p.mx - p.sx), right = toX(p.mx + p.sx), low = toY(p.my - p.sy), high = toY(p.my + p.sy);
        g.append(svg('path', {
          class: 'spread',
          d: `M${left} ${py}H${right}M${px} ${low}V${high}` +
              `M${left} ${py - 3}v6M${right} ${py - 3}v6M${px - 3} ${low}h6M${px - 3} ${high}h6`
        }));
        p.x.forEach((value, i) => g.append(svg('circle', {class: 'seed', cx: toX(value), cy: toY(p.y[i]), r: 3})));
      }
      g.append(svg('circle', {cx: px, cy: py, r: 13, fill: 'transparent'}), mark(p.arm, px, py));
      const several = p.x.length > 1 ? [`mean \u00b1 standard deviation of ${p.x.length} seeds`] : [];
      addHints(
          g, () => [p.runs.join(', '), [report.arms[p.arm].label, ['learning rate', p.label], ...text(p), ...several]]);
      root.append(g);
      const inLine = points.filter((other) => other.arm === p.arm).length > 1;
      if (inLine || points.length === 1) root.append(place(inLine ? p.label : 'trained', px, py) || '');
    }
    return height;
  });
}
/// A tooltip for pointer and keyboard.
function addHints(node, content) {
  const show = (x, y) => showTooltip(...content(), x, y);
  node.addEventListener('pointerenter', (event) => show(event.clientX, event.clientY));
  node.addEventListener('pointerleave', hideTooltip);
  node.addEventListener('focus', () => {
    const bounds = node.getBoundingClientRect();
    show(bounds.right - 8, bounds.bottom - 8);
  });
  node.addEventListener('blur', hideTooltip);
}

// --- Legends

/// Shows what belongs to one entry within `scope`, and dims the rest.
function legend(scope, attribute, entries) {
  const list = html('ul', {class: 'legend'});
  for (const entry of entries) {
    const item = html('li', {[attribute]: entry.value}, entry.swatch, entry.text);
    const dim = (on) => {
      for (const node of scope.querySelectorAll(`[${attribute}]`)) {
        node.classList.toggle('dim', on && node.getAttribute(attribute) !== String(entry.value));
      }
    };
    item.addEventListener('pointerenter', () => dim(true));
    item.addEventListener('pointerleave', () => dim(false));
    list.append(item);
  }
  return list;
}
function markSwatch(arm) {
  return svg('svg', {class: 'swatch', width: 14, height: 14, 'aria-hidden': 'true'}, mark(arm, 7, 7, 5.5));
}
function lineSwatch(arm, dash) {
  return svg('svg', {class: 'swatch', width: 26, height: 10, 'aria-hidden': 'true'}, svg('line', {
               x1: 0,
               x2: 26,
               y1: 5,
               y2: 5,
               style: `${colour(arm)};stroke:var(--c)`,
               'stroke-width': 2.2,
               'stroke-dasharray': dash || null
             }));
}
