// Elements, numbers, scales and the tooltip. Text reaches the page as text nodes only, never as HTML.

const report = JSON.parse(document.getElementById('data').textContent);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const html = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
    fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);

// --- Numbers

const known = (value) => typeof value === 'number' && Number.isFinite(value);
const minus = (text) => text.replace('-', '\u2212');

/// With three significant digits, but no fewer than the whole number has.
function number(value, digits = 3) {
  if (!known(value)) return '\u2013';
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
    return minus(value.toExponential(digits - 1).replace(/\.?0+e/, 'e').replace('e+', 'e'));
  }
  const decimals = size === 0 ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return minus(value.toFixed(Math.min(decimals, 5)));
}
const fixed = (decimals) => (value) => (known(value) ? minus(value.toFixed(decimals)) : '\u2013');
const percent = (value, decimals = 1) => (known(value) ? minus((100 * value).toFixed(decimals)) + '\u202f%' : '\u2013');
const signed = (text) => (text.startsWith('\u2212') ? text : '+' + text);
const degrees = (value) => (known(value) ? value.toFixed(1) + '\u00b0' : '\u2013');
function seconds(value) {
  if (!known(value)) return '\u2013';
  return value >= 100 ? value.toFixed(0) + '\u202fs' :
      value >= 0.1    ? number(value) + '\u202fs' :
                        number(1000 * value) + '\u202fms';
}
const gibibytes = (value) => (known(value) ? number(value / 2 ** 30) + '\u202fGiB' : '\u2013');
/// As one writes a learning rate: 5e-5.
const rate = (value) => (known(value) ? value === 0 ? '0' : Number(value.toExponential(2)).toExponential() : '\u2013');

function mean(values) { return values.reduce((sum, value) => sum + value, 0) / values.length; }
/// Standard deviation of a sample; 0 for a single value.
function deviation(values) {
  if (values.length < 2) return 0;
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
}
function quantile(sorted, share) {
  const at = share * (sorted.length - 1), low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

// --- Scales

/// Round numbers within [low, high], about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough * 0.999) || 10);
  const result = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; ++i) result.push(i * step);
  return {values: result, decimals: Math.max(0, -Math.floor(Math.log10(step) + 1e-9))};
}
/// [low, high] with some room, and some width where all is one value.
function padded([low, high], share = 0.06) {
  const room = high > low ? share * (high - low) : Math.max(Math.abs(high) * 0.05, 1e-6);
  return [low - room, high + room];
}
function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!known(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low <= high ? [low, high] : null;
}
/// 1, 10, 100, or 1, 2, 5, 10 where these are few.
function logTicks(low, high) {
  const result = [];
  const factors = high / low > 1e3 ? [1] : [1, 2, 5];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
    result.push(...factors.map((factor) => factor * power).filter((value) => value >= low && value <= high));
  }
  return {values: result, decimals: 0};
}
const linear = ([a, b], [from, to]) => (value) => from + ((value - a) / (b - a)) * (to - from);

const logarithmic = ([a, b], range) => {
  const scale = linear([Math.log(a), Math.log(b)], range);
  return (value) => scale(Math.log(value));
};

/// Gaussian mean over neighbours; the window grows with the curve.
function smooth(values) {
  const width = values.length / 50;
  if (width < 0.6) return values;
  const reach = Math.ceil(3 * width);
  const weights = Array.from({length: reach + 1}, (_, i) => Math.exp(-0.5 * (i / width) ** 2));
  return values.map((_, i) => {
    let sum = 0, total = 0;
    for (let k = Math.max(0, i - reach); k <= Math.min(values.length - 1, i + reach); ++k) {
      if (!known(values[k])) continue;
      sum += weights[Math.abs(k - i)] * values[k];
      total += weights[Math.abs(k - i)];
    }
    return total > 0 ? sum / total : null;
  });
}

// --- Tooltip

const tooltip = document.getElementById('tooltip');

/// \param rows  [name, value, style class] or one text
function showTooltip(title, rows, x, y) {
  tooltip.replaceChildren(
      html('b', {}, title),
      ...rows.map(
          (row) => typeof row === 'string' ?
              html('div', {}, row) :
              html('div', {class: row[2]}, html('span', {}, row[0]), html('span', {}, row[1]))));
  tooltip.hidden = false;
  const {width, height} = tooltip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth - 8 ? x - 14 - width : x + 14;
  const top = y + 14 + height > innerHeight - 8 ? y - 14 - height : y + 14;
  tooltip.style.left = Math.max(8, Math.min(left, innerWidth - width - 8)) + 'px';
  tooltip.style.top = Math.max(8, top) + 'px';
}
function hideTooltip() { tooltip.hidden = true; }
addEventListener('scroll', hideTooltip, {passive: true});
addEventListener('keydown', (event) => event.key === 'Escape' && hideTooltip());
