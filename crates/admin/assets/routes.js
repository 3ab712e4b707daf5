// Routes with their traffic and the split as it really is.

import { el, text, attr, byId, keyed } from './dom.js';
import { chart } from './chart.js';
import * as f from './format.js';

/** More rows than these are shown busiest first and cut: a table nobody reads slows the page. */
const MOST = 60;

const COLUMNS = [['route', 'Route'], ['split', 'To'], ['rate', 'Rate', true], ['plot', '', false], ['errors', 'Errors', true], ['p50', 'p50', true], ['p99', 'p99', true], ['inflight', 'In flight', true]];

function row() {
  const cells = {};
  const node = el('tr');
  for (const [key, title, number] of COLUMNS) node.append(cells[key] = el('td', { class: number ? 'n' : key === 'plot' ? 'spark' : null, 'data-label': title, 'data-cell': key }));
  const name = el('strong'), matches = el('span', { class: 'note' });
  cells.route.append(name, matches);
  const to = el('span', { class: 'to' }), bar = el('div', { class: 'split', 'aria-hidden': 'true' });
  cells.split.append(to, bar);
  const plot = chart({ lines: [{ key: 'rate', tone: 'main', area: true }, { key: 'errors', tone: 'bad', area: true, quiet: true }], least: 1 });
  cells.plot.append(plot.node);
  return {
    node,
    update({ route: r, rates, series, at }) {
      attr(node, 'data-route', r.name);
      text(name, r.name);
      text(matches, r.matches);
      attr(matches, 'title', r.matches);
      const split = rates?.split.filter(t => t.share != null) ?? [];
      const known = split.length > 1;
      const parts = known ? split.map((t, i) => `${t.target} ${f.percent(t.share)}${i + 1 < split.length ? ',' : ''}`) : [r.to];
      keyed(to, parts.map((part, i) => ({ part, i })), p => p.i, () => {
        const part = el('span');
        return { node: part, update(p) { text(part, p.part); } };
      });
      attr(cells.split, 'title', known ? `configured: ${r.to}; shown: the last seconds` : r.to);
      bar.hidden = !known;
      keyed(bar, known ? split : [], t => t.target, () => {
        const part = el('i');
        return { node: part, update(t) { part.style.flexGrow = String(Math.max(t.share, 0.004)); } };
      });
      text(cells.rate, rates?.rate == null ? '–' : `${f.rate(rates.rate)}/s`);
      plot.draw(series?.points ?? [], at);
      text(cells.errors, f.percent(rates?.errorShare));
      attr(cells.errors, 'data-tone', rates?.errorShare > 0 ? 'bad' : null);
      text(cells.p50, f.micros(rates?.p50));
      text(cells.p99, f.micros(rates?.p99));
      text(cells.inflight, f.count(r.inflight));
    },
  };
}

export function updateRoutes(answer, now, tracker, at, { filter }) {
  const table = byId('routes');
  if (!table.tBodies.length) {
    table.append(el('thead', {}, el('tr', {}, ...COLUMNS.map(([key, title, number]) =>
      el('th', { scope: 'col', class: number ? 'n' : null, 'data-cell': key, ...(key === 'plot' ? { 'aria-label': 'Rate over the last minutes' } : {}) }, title)))), el('tbody'));
  }
  let shown = answer.routes.filter(r => !filter || `${r.name} ${r.to}`.toLowerCase().includes(filter));
  const matching = shown.length;
  if (shown.length > MOST) {
    shown = shown.toSorted((a, b) => (now.routes.get(b.name)?.rate ?? 0) - (now.routes.get(a.name)?.rate ?? 0)).slice(0, MOST);
  }
  text(byId('routes-count'), shown.length < matching ? `the ${MOST} busiest of ${matching}` : matching === answer.routes.length ? matching : `${matching} of ${answer.routes.length}`);
  keyed(table.tBodies[0], shown.map(route => ({ route, rates: now.routes.get(route.name), series: tracker.routes.get(route.name), at })), r => r.route.name, row);
  table.hidden = !shown.length;
  byId('routes-none').hidden = shown.length > 0;
  text(byId('routes-none'), answer.routes.length ? 'No route matches the filter.' : 'The configuration has no routes.');
}
