// Settings, and the sections in their order.

function settingText(value) {
  if (Array.isArray(value)) return value.length > 0 ? value.map(settingText).join(', ') : '\u2013';
  if (known(value)) return value !== 0 && Math.abs(value) < 1e-3 ? rate(value) : String(Number(value.toPrecision(7)));
  return typeof value !== 'string' ? JSON.stringify(value) : value || '\u2013';
}
/// By path: sft.train.learning_rate
function flatten(value, path, result) {
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) {
    for (const [key, inner] of Object.entries(value)) flatten(inner, path ? `${path}.${key}` : key, result);
  } else {
    result.set(path, settingText(value));
  }
  return result;
}
/// A line may break after each point.
const pathText = (path) =>
    html('code', {}, ...path.split('.').flatMap((part, i) => (i === 0 ? [part] : ['.', html('wbr'), part])));
function settings() {
  const all = report.runs.map((run) => flatten(run.settings, '', new Map()));
  const keys = [...new Set(all.flatMap((one) => [...one.keys()]))];
  const values = (key) => all.map((one) => (one.has(key) ? one.get(key) : '\u2013'));
  const differing = keys.filter((key) => new Set(values(key)).size > 1),
        same = keys.filter((key) => !differing.includes(key));
  const table = (names, heads, cells) => {
    const row = (key) =>
        html('tr', {}, html('th', {scope: 'row'}, pathText(key)), ...cells(key).map((text) => html('td', {}, text)));
    return scrolling(
        'Settings', 'wide',
        html(
            'table', {}, html('thead', {}, html('tr', {}, head('Setting'), ...heads)),
            html('tbody', {}, ...names.map(row))));
  };
  const rest = hasChoices ? 'Same in all runs' : 'All settings and versions';
  const heads = report.runs.map((run) => head(named(run.arm, run.name)));
  section(
      'settings', 'Settings and versions',
      differing.length === 0 ?
          null :
          html(
              'details', {open: ''}, html('summary', {}, `Where the runs differ (${differing.length})`),
              table(differing, heads, values)),
      html(
          'details', {}, html('summary', {}, `${rest} (${same.length})`),
          table(same, [head('Value')], (key) => [values(key)[0]])));
}

// --- The page

const kResultsHint = [
  'Small numbers: change from the base model, of percentages in points; ', html('span', {class: 'better'}, 'blue'),
  ' is better, ', html('span', {class: 'worse'}, 'orange'),
  ' is worse. The tax is the rise of the general loss over that of the base model. A step is timed without refreshes: ' +
      'estimates of the subspace, of which the mean time is given. Memory is that of the whole process.'
];

main.replaceChildren();
headline();
const contents = html('nav', {'aria-label': 'Sections'});
main.append(contents);
section(
    'results', 'Results', tiles(),
    entries.some((entry) => entry.stage.evaluation) ? html('p', {class: 'hint'}, ...kResultsHint) : null,
    resultTable());
tradeOffs();
curves();
projection();
files();
settings();
contents.append(...[...main.querySelectorAll('section')].map(
    (node) => html('a', {href: '#' + node.id}, node.querySelector('h2').textContent)));
