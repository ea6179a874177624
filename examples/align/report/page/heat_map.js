// The heat map of blocks over steps.

// From little to much; each reads as "more" in shades of grey as well.
const kRamps = {
  light: ['#f3f6ee', '#c3e3cf', '#66bcc4', '#2c83b8', '#214d96', '#141f57'],
  dark: ['#1f2b3c', '#20446f', '#1f74ac', '#3fb0b8', '#a3dca8', '#fbf7cc'],
};
function ramp(share) {
  const stops = kRamps[matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'];
  const at = Math.min(1, Math.max(0, share)) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
  const channel = (stop, i) => parseInt(stop.slice(1 + 2 * i, 3 + 2 * i), 16);
  return [0, 1, 2].map(
      (i) => Math.round(channel(stops[low], i) + (at - low) * (channel(stops[low + 1], i) - channel(stops[low], i))));
}

/// One pixel for each cell of some rows.
function imageOf(rows, top) {
  const canvas = html('canvas', {width: rows[0].length, height: rows.length});
  const context = canvas.getContext('2d');
  const image = context.createImageData(rows[0].length, rows.length);
  rows.forEach((row, r) => row.forEach((value, c) => {
    if (value !== null) image.data.set([...ramp(value / top), 255], 4 * (r * row.length + c));
  }));
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

/// Which share of each block's gradient was removed, over the steps.
function heatMap(title, note, map) {
  const top = Math.max(1, ...map.values.map((row) => Math.max(...row.map((value) => value || 0))));
  const share = (value) => (value === null ? '\u2013' : percent(value * map.unit, top * map.unit < 0.02 ? 3 : 1));
  const averages = map.groups.map(() => 0);
  let first = 0;
  map.groups.forEach((group, g) => {
    group.first = first;
    first += group.rows;
    const cells = map.values.slice(group.first, first).flat().filter((value) => value !== null);
    averages[g] = cells.length > 0 ? mean(cells) : null;
  });
  const description =
      `Mean share removed: ${map.groups.map((group, g) => `${group.kind} ${share(averages[g])}`).join(', ')}`;
  const steps = map.columns.length;
  return figure(title, note, description, (width, root) => {
    const pixel = Math.max(2, Math.min(14, Math.round(600 / map.rows.length)));
    const name = (kind) => (kind.length > 11 ? kind.slice(0, 10) + '\u2026' : kind);
    const box = {
      left: 10 + 6.2 * Math.max(...map.groups.map((group) => name(group.kind).length)),
      right: width - 8,
      top: 34
    };
    const plot = box.right - box.left, across = plot / steps;

    // Colour scale
    const scale = Math.min(220, plot), left = box.right - scale;
    root.append(svg('image', {
      href: imageOf([Array.from({length: 64}, (_, i) => i)], 63),
      x: left,
      y: 0,
      width: scale,
      height: 9,
      preserveAspectRatio: 'none'
    }));
    [0, 0.5, 1].forEach(
        (at, i) => root.append(
            svg('text', {x: left + at * scale, y: 22, 'text-anchor': ['start', 'middle', 'end'][i]},
                at === 0 ? '0\u202f%' : share(at * top))));

    let y = box.top;
    const bands = map.groups.map((group) => {
      const height = Math.max(9, group.rows * pixel), band = {group, top: y, height};
      root.append(
          svg('image', {
            href: imageOf(map.values.slice(group.first, group.first + group.rows), top),
            x: box.left,
            y,
            width: plot,
            height,
            preserveAspectRatio: 'none'
          }),
          svg('text', {x: box.left - 7, y: y + height / 2 + 4, 'text-anchor': 'end'}, name(group.kind)));
      y += height + (height > 9 ? 5 : 4);
      return band;
    });
    box.bottom = y - 4;

    // A tick stands in the middle of the column that has its step.
    const count = Math.max(1, Math.min(8, Math.floor(plot / 60)));
    for (const step of ticks(map.columns[0][0], map.columns[steps - 1][1], count).values) {
      const column = map.columns.findIndex((range) => range[1] >= step);
      if (column < 0) continue;
      const x = box.left + (column + 0.5) * across, text = stepText(step);
      root.append(
          svg('line', {class: 'axis', x1: x, x2: x, y1: box.bottom + 1, y2: box.bottom + 5}),
          svg('text', {x: Math.min(x, width - 3.3 * text.length), y: box.bottom + 18, 'text-anchor': 'middle'}, text));
    }
    root.append(svg('text', {x: box.right, y: box.bottom + 34, 'text-anchor': 'end'}, 'optimizer step'));

    const cell = svg('rect', {class: 'cell', visibility: 'hidden'});
    root.append(cell);
    pointerArea(root, box, (px, py, event) => {
      const band = bands.find((b) => py < b.top + b.height + 2) || bands[bands.length - 1];
      const high = band.height / band.group.rows;
      const row = Math.min(band.group.rows - 1, Math.max(0, Math.floor((py - band.top) / high)));
      const column = Math.min(steps - 1, Math.max(0, Math.floor((px - box.left) / across)));
      fill(
          cell, {
            x: box.left + column * across - 1,
            y: band.top + row * high - 1,
            width: across + 2,
            height: high + 2,
            visibility: 'visible'
          },
          []);
      const block = map.rows[band.group.first + row], [from, to] = map.columns[column];
      showTooltip(
          block.name,
          [
            ['removed', share(map.values[band.group.first + row][column]), 'nearest'],
            [from === to ? 'step' : 'steps, mean of', from === to ? `${from}` : `${from} to ${to}`],
            ['form, rank at the end', `${block.form || '\u2013'}, ${block.rank}`]
          ],
          event.clientX, event.clientY);
    }, () => cell.setAttribute('visibility', 'hidden'));
    return box.bottom + 40;
  });
}
