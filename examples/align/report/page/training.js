// Training: curves, and what the projection did.

// --- Curves

function series(entry, x, y) {
  const {run, index} = entry;
  return {name: run.name, run: index, arm: run.arm, dash: dashOf(run), x, y};
}
/// A column of metrics.jsonl of all runs that have it.
function seriesOf(key, column, scale = 1) {
  const found = entriesOf(key).filter((entry) => entry.stage.metrics[column]);
  return found.map(
      (entry) => series(
          entry, entry.stage.metrics.step,
          entry.stage.metrics[column].map((value) => (known(value) ? scale * value : null))));
}
function withoutRefreshes(key) {
  const refreshes = seriesOf(key, 'refresh_seconds');
  return seriesOf(key, 'seconds').map((times) => {
    const refresh = refreshes.find((other) => other.run === times.run);
    const y = times.y.map((value, i) => (known(value) && refresh ? value - (refresh.y[i] || 0) : value));
    return {...times, y};
  });
}
const small = (...charts) => html('div', {class: 'grid small'}, ...charts);

function curves() {
  const trained = stageKeys.filter((key) => seriesOf(key, 'loss').length > 0);
  if (trained.length === 0) return;
  const scope = html('div', {});
  scope.append(curvesLegend(scope, report.runs.filter((run) => run.stages.some((stage) => stage.steps > 0))) || '');
  for (const key of trained) {
    const faint = 'smoothed; faint: each step';
    const loss = {raw: true, format: fixed(3), unit: key === 'sft' ? 'nats per token' : null, height: 270};
    const rates = {format: rate, tick: rate, zero: true, height: 180};
    const norms = {raw: true, format: number, zero: true, height: 180};
    const times = {raw: true, format: seconds, unit: 'seconds', zero: true, height: 180};
    scope.append(
        html('h3', {}, kStageTitles[key]),
        html('div', {class: 'grid'}, lineChart('Training loss', faint, seriesOf(key, 'loss'), loss)),
        small(
            lineChart('Learning rate', null, seriesOf(key, 'learning_rate'), rates),
            lineChart('Gradient norm', `before clipping; ${faint}`, seriesOf(key, 'gradient_norm'), norms),
            lineChart('Time of a step', `without refreshes; ${faint}`, withoutRefreshes(key), times)));
  }
  section('curves', 'Training', scope);
}

// --- Projection

function projectionCharts(key) {
  const ranks = entriesOf(key)
                    .filter((entry) => entry.stage.rank)
                    .map((entry) => series(entry, entry.stage.rank.step, entry.stage.rank.rank));
  const height = 190;
  const removed = {format: percent, tick: percentTick, zero: true, height};
  const angle = {format: degrees, tick: (value, decimals) => value.toFixed(decimals) + '\u00b0', height};
  const rank = {format: fixed(0), tick: (value) => String(value), zero: true, log: true, steps: true, height};
  const age = {format: fixed(0), zero: true, thin: true, height};
  return small(
      lineChart(
          'Removed', 'share of the gradient\u2019s (or step\u2019s) energy, all blocks together',
          seriesOf(key, 'fraction_removed'), removed),
      lineChart(
          'Angle to the subspace', '0\u00b0: inside it; 90\u00b0: orthogonal to it',
          seriesOf(key, 'angle', 180 / Math.PI), angle),
      lineChart('Rank of the subspace', 'directions, all blocks together', ranks, rank),
      lineChart('Age of the subspace', 'optimizer steps since it was estimated', seriesOf(key, 'basis_age'), age));
}
function projection() {
  const projected = entries.filter((entry) => entry.stage.heat_map || entry.stage.metrics.fraction_removed);
  if (projected.length === 0) return;
  const scope = html('div', {});
  scope.append(curvesLegend(scope, report.runs.filter((run) => projected.some((entry) => entry.run === run))) || '');
  for (const key of stageKeys.filter((name) => projected.some((entry) => entry.stage.name === name))) {
    if (stageKeys.length > 1) scope.append(html('h3', {}, kStageTitles[key]));
    scope.append(projectionCharts(key));
  }
  const mapped = projected.filter((entry) => entry.stage.heat_map);
  if (mapped.length > 0) {
    const maps = mapped.map(
        (entry) => heatMap(
            nameOf(entry), `${entry.stage.method}; ${count(entry.stage.heat_map.rows.length, 'block')}`,
            entry.stage.heat_map));
    const hint =
        'The share of each block\u2019s energy that was removed. A band holds the matrices of one kind, its first ' +
        'layer on top, the last at the bottom. Every map has a colour scale of its own.';
    scope.append(
        html('h3', {}, 'Block by block'), html('p', {class: 'hint'}, hint), html('div', {class: 'grid maps'}, ...maps));
  }
  section('projection', 'What the projection removed', scope);
}
