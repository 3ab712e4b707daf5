// Services that Tidegate runs, with their instances.

import { el, text, attr, byId, keyed } from './dom.js';
import * as f from './format.js';

const COLUMNS = [
  { key: 'state', title: 'State' },
  { key: 'id', title: 'Instance' },
  { key: 'cause', title: 'Cause' },
  { key: 'inflight', title: 'In flight', number: true },
  { key: 'restarts', title: 'Restarts', number: true, hint: 'deaths of its workers' },
  { key: 'memory', title: 'Memory', number: true, hint: 'resident memory of its worker' },
  { key: 'versions', title: 'Versions', hint: 'versions of the model in memory' },
  { key: 'pid', title: 'Pid', number: true },
];

/** The colour of a state: those of members have names of their own. */
const TONE = { ready: 'healthy', starting: 'warming', draining: 'draining', crash_loop: 'ejected', failing: 'ejected' };

const memory = bytes => !bytes ? '' : bytes >= 10 * 2 ** 30 ? `${Math.round(bytes / 2 ** 30)} GiB` : `${Math.ceil(bytes / 2 ** 20)} MiB`;

function row() {
  const cells = {}, tds = [];
  for (const { key, title, number } of COLUMNS) {
    cells[key] = el('td', { class: number ? 'n' : null, 'data-label': title, 'data-cell': key });
    tds.push(cells[key]);
  }
  const state = el('span', { class: 'state' });
  cells.state.append(state);
  const node = el('tr', {}, ...tds);
  return {
    node,
    update({ instance: i }) {
      attr(node, 'data-key', i.name);
      attr(node, 'data-state', TONE[i.state] ?? i.state);
      text(state, i.state.replaceAll('_', ' '));
      attr(cells.state, 'title', `for ${f.span(i.since_ms)}`);
      text(cells.id, i.name);
      attr(cells.id, 'title', i.address);
      const cause = i.cause.split('\n')[0];
      text(cells.cause, i.state !== 'ready' ? cause : i.restarts && cause ? `last death: ${cause}` : '');
      attr(cells.cause, 'title', i.cause || null);
      text(cells.inflight, f.count(i.in_flight));
      text(cells.restarts, f.count(i.restarts));
      text(cells.memory, memory(i.memory));
      text(cells.versions, i.versions.map(v => v || '–').join(', '));
      text(cells.pid, i.pid ?? '');
    },
  };
}

function card() {
  const name = el('h3'), runs = el('span', { class: 'tag' }), version = el('span', { class: 'tag' });
  const ready = el('span', { class: 'tally' }), numbers = el('span', { class: 'numbers' });
  const head = el('thead', {}, el('tr', {}, ...COLUMNS.map(c =>
    el('th', { scope: 'col', class: c.number ? 'n' : null, title: c.hint, 'data-cell': c.key }, c.title))));
  const body = el('tbody');
  const node = el('article', { class: 'card service' },
    el('div', { class: 'upstream-head' }, el('div', { class: 'title' }, name, el('span', { class: 'tags' }, runs, version)), ready, numbers),
    el('div', { class: 'scroll' }, el('table', { class: 'members' }, head, body)));
  return {
    node,
    update({ service: s }) {
      attr(node, 'data-service', s.name);
      text(name, s.name);
      text(runs, s.runs);
      text(version, s.version && `version ${s.version}`);
      version.hidden = !s.version;
      text(ready, `${s.ready} of ${s.replicas} ready`);
      attr(ready, 'data-tone', !s.ready ? 'bad' : s.ready < s.replicas ? 'warn' : null);
      const faults = Object.values(s.faults).reduce((sum, n) => sum + n, 0);
      text(numbers, [
        f.plural(s.calls, 'call'), `${f.count(s.running)} in workers`, s.waiting && `${f.count(s.waiting)} waiting`,
        faults && `${f.count(faults)} failed`, s.retries && `${f.count(s.retries)} ran again`,
      ].filter(Boolean).join(' · '));
      attr(numbers, 'title', Object.entries(s.faults).map(([why, n]) => `${n} × ${why.replaceAll('_', ' ')}`).join('\n') || null);
      keyed(body, s.instances.map(instance => ({ instance })), one => `${one.instance.host} ${one.instance.name}`, row);
    },
  };
}

export function updateServices(answer, { filter, troubleOnly }) {
  const services = answer.services ?? [];
  byId('services-section').hidden = !services.length;
  const shown = services.filter(s => (!troubleOnly || s.ready < s.replicas) &&
    (!filter || [s.name, s.runs, ...s.instances.map(i => i.name)].some(word => word.toLowerCase().includes(filter))));
  text(byId('services-count'), shown.length === services.length ? shown.length : `${shown.length} of ${services.length}`);
  keyed(byId('services'), shown.map(service => ({ service })), one => one.service.name, card);
  const none = byId('services-none');
  none.hidden = shown.length > 0;
  text(none, 'No service fits.');
}
