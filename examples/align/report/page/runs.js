// What the runs are and what is compared of them; cells of tables.

const main = document.getElementById('report');
const kStageNames = {
  sft: 'SFT',
  dpo: 'DPO'
};
const kStageTitles = {
  sft: 'Supervised fine-tuning (SFT)',
  dpo: 'Preference optimisation (DPO)'
};

const kDecimals = {
  percent: (value) => percent(value),
  loss: fixed(3)
};
const pointsTick = percentTick, lossTick = decimalTick;
/// `better`: 1: more is better; -1: less is.
const kMeasures = [
  {
    key: 'refusals',
    name: 'Refusals',
    note: 'of harmful prompts',
    unit: 'percent',
    better: 1,
    axis: 'refusals of harmful prompts (safer \u2192)'
  },
  {
    key: 'preference_accuracy',
    name: 'Preference accuracy',
    note: 'chosen likelier',
    unit: 'percent',
    better: 1,
    axis: 'preference accuracy (safer \u2192)'
  },
  {
    key: 'safety_loss',
    name: 'Safety loss',
    note: 'nats per token',
    unit: 'loss',
    better: -1,
    axis: 'safety loss, nats per token (\u2190 safer)'
  },
  {
    key: 'false_refusals',
    name: 'False refusals',
    note: 'of harmless prompts',
    unit: 'percent',
    better: -1,
    axis: 'false refusals'
  },
  {
    key: 'general_loss',
    name: 'General loss',
    note: 'nats per token',
    unit: 'loss',
    better: -1,
    axis: 'general loss, nats per token (\u2193 better)'
  },
  {
    key: 'tax',
    name: 'Tax',
    note: 'rise of general loss',
    unit: 'loss',
    better: -1,
    axis: 'tax: rise of general loss, nats per token (\u2193 better)'
  },
  {
    key: 'accuracy',
    name: 'Accuracy',
    note: 'multiple choice',
    unit: 'percent',
    better: 1,
    axis: 'accuracy, multiple choice (\u2191 better)'
  },
  {
    key: 'exact_match',
    name: 'Exact match',
    note: 'questions',
    unit: 'percent',
    better: 1,
    axis: 'exact match (\u2191 better)'
  },
].map((measure) => ({
        ...measure,
        format: measure.key === 'tax' ? (value) => (known(value) ? signed(fixed(3)(value)) : '\u2013') :
                                        kDecimals[measure.unit],
        spread: kDecimals[measure.unit],
        tick: measure.unit === 'percent' ? pointsTick : lossTick
      }));
const measureOf = (key) => kMeasures.find((measure) => measure.key === key);

/// The value of an evaluation; the tax is the rise of the general loss over the base model's.
function valueOf(key, evaluation, base) {
  if (!evaluation) return null;
  if (key === 'tax') {
    return base && known(evaluation.general_loss) && known(base.general_loss) ?
        evaluation.general_loss - base.general_loss :
        null;
  }
  return known(evaluation[key]) ? evaluation[key] : null;
}

/// A value, and how it changed from the base model's; percentages change by points.
function changeOf(measure, value, before) {
  if (!known(value) || !known(before)) return null;
  const difference = value - before;
  const text = measure.unit === 'percent' ? minus((100 * difference).toFixed(1)) : fixed(3)(difference);
  const none = Number(text.replace('\u2212', '-')) === 0;
  const sort = none ? null : difference * measure.better > 0 ? 'better' : 'worse';
  return {text: none ? '\u00b10' : signed(text), sort};
}
function valueCell(measure, value, before) {
  const change = changeOf(measure, value, before);
  return html('td', {}, measure.format(value), change ? html('small', {class: change.sort}, change.text) : null);
}

/// Runs and stages as they are counted everywhere.
const entries = report.runs.flatMap((run, index) => run.stages.map((stage) => ({run, index, stage})));
const entriesOf = (key) => entries.filter((entry) => entry.stage.name === key);
const stageKeys = ['sft', 'dpo'].filter((key) => entriesOf(key).length > 0);
const nameOf = (entry) =>
    (entry.run.stages.length > 1 ? `${entry.run.name} \u00b7 ${kStageNames[entry.stage.name]}` : entry.run.name);
const ratesOf = (run) => run.stages.map((stage) => stage.learning_rate);
const rateKey = (run) => JSON.stringify(ratesOf(run));

/// Runs of each arm by learning rate and seed. Each has its own way of drawing lines.
const runsOfArm = report.arms.map((_, arm) => {
  const order = (run) => [...ratesOf(run).reverse(), run.settings.seed];
  return report.runs.filter((run) => run.arm === arm)
      .sort((a, b) => order(a).map((value, i) => value - order(b)[i]).find((difference) => difference) || 0);
});
const ratesOfArm = runsOfArm.map((runs) => [...new Set(runs.map(rateKey))]);
const dashOf = (run) => kDashes[runsOfArm[run.arm].indexOf(run) % kDashes.length];
const hasChoices = report.runs.length > 1;

/// A name with the mark of its arm.
const named = (arm, name) =>
    html('span', {class: 'named'}, hasChoices ? markSwatch(arm) : null, html('span', {}, name));

function section(id, title, ...children) {
  main.append(
      html('section', {id, 'aria-labelledby': id + '-title'}, html('h2', {id: id + '-title'}, title), ...children));
}
function curvesLegend(scope, runs) {
  if (!hasChoices) return null;
  return legend(
      scope, 'data-run',
      runs.map((run) => ({value: report.runs.indexOf(run), text: run.name, swatch: lineSwatch(run.arm, dashOf(run))})));
}
