// Results: the headline, the table, safety against capability, the table of files.

// --- Headline

const count = (n, word) => `${n} ${word}${n === 1 ? '' : 's'}`;

function headline() {
  const runs = report.runs, open = runs.filter((run) => !run.complete).length;
  const models = [...new Set(runs.map((run) => run.model).filter(Boolean))];
  const model = models.length === 1 ? models[0] : models.length > 1 ? count(models.length, 'model') : 'Alignment';
  const stages = stageKeys.map((key) => kStageNames[key]).join(', then ');
  const methods = [...new Set(report.arms.map((arm) => arm.method))];
  const title = `${model}: ${hasChoices ? methods.join(', ') : report.arms[0].label}`;
  const arms = report.arms.map((arm) => arm.label).join('; ');
  const what = `${stages} by ogpsa_align, with what it gained in safety and what it cost in general ability.`;
  const which = hasChoices ? `${count(runs.length, 'run')} of ${count(report.arms.length, 'arm')}: ${arms}.` :
                             `Run: ${runs[0].name}.`;
  const state = open > 0 ? `${count(open, 'run')} not finished: what there is, is shown.` : '';
  document.title = title;
  main.append(html('h1', {}, title), html('p', {class: 'lead'}, [what, which, state].join(' ')));
  const notes = runs.flatMap((run) => run.notes.map((note) => `${run.name}: ${note}`));
  if (notes.length > 0) main.append(html('ul', {class: 'notes'}, ...notes.map((note) => html('li', {}, note))));
}

/// The result of a single run at a glance.
function tiles() {
  if (hasChoices) return null;
  const last = [...entries].reverse().find((entry) => entry.stage.evaluation);
  if (!last) return null;
  const base = last.run.base;
  const tile = (measure) => {
    const value = valueOf(measure.key, last.stage.evaluation, base);
    if (value === null) return null;
    const before = measure.key === 'tax' ? null : valueOf(measure.key, base, null);
    const change = changeOf(measure, value, before);
    const from = change ? [`from ${measure.format(before)} `, html('span', {class: change.sort}, `(${change.text})`)] :
                          measure.note;
    return html(
        'div', {class: 'card tile'}, html('div', {class: 'name'}, measure.name),
        html('div', {class: 'value'}, measure.format(value)), html('div', {class: 'change'}, from));
  };
  return html('div', {class: 'grid tiles'}, ...kMeasures.map(tile));
}

/// The tax is a change, and that of the general loss.
const hasOwnChange = (measure) => measure.key !== 'tax' && measure.key !== 'general_loss';

/// Base models, each once, with the runs that began with it.
function bases() {
  const found = new Map();
  for (const run of report.runs) {
    if (!run.base) continue;
    const key = JSON.stringify(run.base);
    if (!found.has(key)) found.set(key, {base: run.base, runs: []});
    found.get(key).runs.push(run);
  }
  return [...found.values()];
}

const head = (name, note, attributes) =>
    html('th', {scope: 'col', ...attributes}, name, note ? html('small', {}, note) : null);
const noValues = (length) => Array.from({length}, () => html('td', {}, '\u2013'));
/// A row that names the rows below.
const partRow = (name, columns) => html(
    'tr', {class: 'part'}, html('th', {scope: 'rowgroup'}, name), columns > 0 ? html('td', {colspan: columns}) : null);
const scrolling = (name, style, ...children) =>
    html('div', {class: `card scroll ${style}`, tabindex: 0, role: 'region', 'aria-label': name}, ...children);

/// Time of a step, what of it goes from the gradients to the new weights (what a projection adds is the difference to a
/// plain run), each estimate of the subspace, and memory; those that any has.
const kCosts = [
  {name: 'Step', note: 'median time', text: (cost) => [seconds(cost.seconds_per_step)], is: 'seconds_per_step'},
  {
    name: 'Update',
    note: 'of it: projection, AdamW',
    is: 'update_seconds_per_step',
    text: (cost) => {
      const part = cost.update_seconds_per_step;
      return [seconds(part), known(part) ? html('small', {}, percent(part / cost.seconds_per_step)) : null];
    }
  },
  {
    name: 'Refresh',
    note: 'beside it',
    is: 'refresh_seconds',
    text: ({refresh_seconds: each}) => each && each.length > 0 ?
        [seconds(mean(each)), html('small', {}, `${each.length}\u00d7`)] :
        ['\u2013']
  },
  {name: 'Memory', note: 'peak', text: (cost) => [gibibytes(cost.peak_memory)], is: 'peak_memory'},
].filter(({is}) => entries.some((entry) => entry.stage.cost[is] !== undefined));

function resultTable() {
  const all =
      [...entries.map(({run, stage}) => [stage.evaluation, run.base]), ...report.runs.map((run) => [run.base, null])];
  const measures =
      kMeasures.filter(({key}) => all.some(([evaluation, base]) => valueOf(key, evaluation, base) !== null));
  const columns = measures.length + kCosts.length;
  const heads = [head('Model'), ...[...measures, ...kCosts].map(({name, note}) => head(name, note))];

  const baseRow = ({base, runs}, several) => html(
      'tr', {},
      html(
          'th', {scope: 'row'}, 'Base model',
          several ? html('small', {}, `of ${runs.map((run) => run.name).join(', ')}`) : null),
      ...measures.map((m) => valueCell(m, valueOf(m.key, base, null), null)), ...noValues(kCosts.length));
  const runRow = (entry) => {
    const {run, stage} = entry;
    const state = stage.finished ? null : stage.steps > 0 ? `at step ${stage.steps}` : 'not begun';
    return html(
        'tr', {},
        html(
            'th', {scope: 'row'}, named(run.arm, run.name),
            state ? html('small', {}, html('span', {class: 'badge'}, state)) : null),
        ...measures.map(
            (m) => valueCell(
                m, valueOf(m.key, stage.evaluation, run.base),
                hasOwnChange(m) ? valueOf(m.key, run.base, null) : null)),
        ...kCosts.map(({text}) => html('td', {}, ...text(stage.cost))));
  };
  const seedsRow = (group) => {
    const {run, stage} = group[0];
    return html(
        'tr', {class: 'summary'},
        html(
            'th', {scope: 'row'}, named(run.arm, `${report.arms[run.arm].label}, ${group.length} seeds`),
            html('small', {}, `learning rate ${rate(stage.learning_rate)}`)),
        ...measures.map((m) => {
          const values = group.map((entry) => valueOf(m.key, entry.stage.evaluation, entry.run.base)).filter(known);
          const spread = values.length > 1 ? html('small', {}, `\u00b1 ${m.spread(deviation(values))}`) : null;
          return html('td', {}, values.length > 0 ? m.format(mean(values)) : '\u2013', spread);
        }),
        ...noValues(kCosts.length));
  };

  const rows = bases().map((base, _, found) => baseRow(base, found.length > 1));
  for (const key of stageKeys) {
    const ofStage = entriesOf(key);
    if (stageKeys.length > 1) rows.push(partRow(`After ${kStageNames[key]}`, columns));
    rows.push(...ofStage.map(runRow), ...seedGroups(ofStage).map(seedsRow));
  }
  return scrolling(
      'Results', '', html('table', {}, html('thead', {}, html('tr', {}, ...heads)), html('tbody', {}, ...rows)));
}
/// Entries of one stage that differ in the seed alone, where there are several.
function seedGroups(ofStage) {
  const groups = new Map();
  for (const entry of ofStage.filter((e) => e.stage.evaluation)) {
    const key = entry.run.arm + rateKey(entry.run);
    groups.set(key, [...(groups.get(key) || []), entry]);
  }
  return [...groups.values()].filter((group) => group.length > 1);
}

// --- Safety against capability

/// What is drawn against what, first those that are wanted most.
const kTradeOffs = [
  ['safety_loss', 'tax'], ['refusals', 'accuracy'], ['preference_accuracy', 'tax'], ['refusals', 'tax'],
  ['safety_loss', 'general_loss']
];

/// Runs of a stage that have both values; those that differ in the seed alone together.
function tradeOffGroups(key, xKey, yKey) {
  const groups = new Map();
  for (const {run, stage} of entriesOf(key)) {
    const x = valueOf(xKey, stage.evaluation, run.base), y = valueOf(yKey, stage.evaluation, run.base);
    if (!known(x) || !known(y)) continue;
    const id = run.arm + rateKey(run);
    if (!groups.has(id)) {
      const order = ratesOfArm[run.arm].indexOf(rateKey(run));
      groups.set(id, {arm: run.arm, order, label: rate(stage.learning_rate), runs: [], x: [], y: []});
    }
    const group = groups.get(id);
    group.runs.push(run.name);
    group.x.push(x);
    group.y.push(y);
  }
  return [...groups.values()].sort((a, b) => a.arm - b.arm || a.order - b.order);
}
function tradeOffChart(key, xKey, yKey) {
  const groups = tradeOffGroups(key, xKey, yKey);
  if (groups.length === 0) return null;
  const x = measureOf(xKey), y = measureOf(yKey);
  const ofBases = bases().map(({base}) => ({x: valueOf(xKey, base, base), y: valueOf(yKey, base, base)}));
  return scatterChart(
      `${y.name} against ${x.name.toLowerCase()}`, groups, ofBases.filter((base) => known(base.x) && known(base.y)),
      [x, y]);
}
function tradeOffs() {
  const scope = html('div', {});
  if (report.arms.length > 1) {
    scope.append(
        legend(scope, 'data-arm', report.arms.map((arm, i) => ({value: i, text: arm.label, swatch: markSwatch(i)}))));
  }
  let any = false;
  for (const key of stageKeys) {
    const charts = kTradeOffs.map(([xKey, yKey]) => tradeOffChart(key, xKey, yKey)).filter(Boolean).slice(0, 2);
    if (charts.length === 0) continue;
    any = true;
    if (stageKeys.length > 1) scope.append(html('h3', {}, `After ${kStageNames[key]}`));
    scope.append(html('div', {class: 'grid'}, ...charts));
  }
  if (!any) return;
  const lines = ratesOfArm.some((rates) => rates.length > 1),
        seeds = stageKeys.some((key) => seedGroups(entriesOf(key)).length > 0);
  const hints = [
    'Each mark is a trained model, the cross the base model.',
    lines ? 'A line joins runs of one arm in the order of their learning rate, which stands beside the mark.' : '',
    seeds ?
        'Runs that differ in the seed alone are one mark at their mean; bars: standard deviation; small dots: seeds.' :
        ''
  ];
  section('trade-off', 'Safety against capability', html('p', {class: 'hint'}, hints.join(' ')), scope);
}

// --- Files

const kKinds = [
  {kind: 'harmful', name: 'Refusals of harmful prompts', key: 'refusals', measure: 'refusals'},
  {kind: 'preference', name: 'Preference accuracy', key: 'accuracy', measure: 'preference_accuracy'},
  {kind: 'safety_loss', name: 'Safety loss, nats per token', key: 'loss', measure: 'safety_loss'},
  {kind: 'harmless', name: 'Refusals of harmless prompts', key: 'refusals', measure: 'false_refusals'},
  {kind: 'loss', name: 'General loss, nats per token', key: 'loss', measure: 'general_loss'},
  {kind: 'multiple_choice', name: 'Accuracy, multiple choice', key: 'accuracy', measure: 'accuracy'},
  {kind: 'exact_match', name: 'Exact match', key: 'accuracy', measure: 'exact_match'},
];

const filesOf = (evaluation) => (evaluation && evaluation.files) || {};

/// A column for each model.
function fileColumns() {
  const found = bases();
  const ofBases = found.map(({base, runs}) => {
    const name = found.length > 1 ? `Base model of ${runs.map((run) => run.name).join(', ')}` : 'Base model';
    return {name, files: filesOf(base), base: {}};
  });
  const trained = entries.filter((entry) => entry.stage.evaluation).map(({run, stage}) => {
    const after = run.stages.length > 1 ? `after ${kStageNames[stage.name]}` : null;
    return {name: named(run.arm, run.name), run, after, files: filesOf(stage.evaluation), base: filesOf(run.base)};
  });
  return [...ofBases, ...trained];
}
/// Two rows: the stages of a run stand under its name.
function fileHeads(columns) {
  const heads = [head('File', null, {rowspan: 2}), head('Rows', null, {rowspan: 2})], stages = [];
  for (const column of columns) {
    if (!column.after) {
      heads.push(head(column.name, null, {rowspan: 2}));
      continue;
    }
    const ofRun = columns.filter((other) => other.run === column.run);
    if (ofRun[0] === column)
      heads.push(head(column.name, null, {scope: 'colgroup', colspan: ofRun.length, class: 'group'}));
    stages.push(head('', column.after));
  }
  return html('thead', {}, html('tr', {}, ...heads), html('tr', {}, ...stages));
}
function files() {
  const columns = fileColumns();
  const rowsOf = (file) => columns.map((column) => (column.files[file] || {}).rows).find(known);
  const kindOf = (file) => columns.map((column) => (column.files[file] || {}).kind).find(Boolean);
  const names = [...new Set(columns.flatMap((column) => Object.keys(column.files)))];
  if (names.length === 0) return;
  const rows = [];
  for (const {kind, name, key, measure} of kKinds) {
    const ofKind = names.filter((file) => kindOf(file) === kind);
    if (ofKind.length > 0) rows.push(partRow(name, columns.length + 1));
    for (const file of ofKind) {
      const value = (ofModel) => (ofModel[file] || {})[key];
      rows.push(html(
          'tr', {}, html('th', {scope: 'row'}, file),
          html('td', {}, known(rowsOf(file)) ? String(rowsOf(file)) : '\u2013'),
          ...columns.map((column) => valueCell(measureOf(measure), value(column.files), value(column.base)))));
    }
  }
  const hint =
      'The small number is the change from the base model, of percentages in points. A rate over 100 rows is known ' +
      'to about \u00b1 5 points (one standard error).';
  section(
      'files', 'Evaluation by file', html('p', {class: 'hint'}, hint),
      scrolling('Evaluation by file', '', html('table', {}, fileHeads(columns), html('tbody', {}, ...rows))));
}
