// Providers of language models with their keys: what is out, why, when it is back.

import { ask } from './api.js';
import { el, text, attr, byId, keyed } from './dom.js';
import { chart } from './chart.js';
import { tally, troubles } from './summary.js';
import * as f from './format.js';

const COLUMNS = [
  { key: 'state', title: 'State' },
  { key: 'id', title: 'Key' },
  { key: 'cause', title: 'Cause' },
  { key: 'returns', title: 'Returns in', number: true, hint: 'probed: only a probe, or you, bring it back' },
  { key: 'rate', title: 'Rate', number: true, hint: 'attempts a second; the bar compares with the busiest key' },
  { key: 'failed', title: 'Failed', number: true, hint: 'share of the attempts of the last seconds' },
  { key: 'requests', title: 'Requests', number: true, hint: 'attempts since the start' },
  { key: 'inflight', title: 'In flight', number: true },
  { key: 'spared', title: 'Spared', number: true, hint: 'times it was taken out' },
  { key: 'again', title: '' },
];

/** A key is as bad as the worst of its models. */
const troubled = key => key.state !== 'healthy' || key.models.some(m => m.state !== 'healthy');

/** Rows of a provider: each key, and below it the models that have a health of their own. */
const rowsOf = (provider, rates, busiest) => provider.keys.flatMap(key => [
  { id: key.name, provider: provider.name, key, health: key, rate: rates?.keys.get(key.name), busiest },
  ...key.models.map(model => ({ id: `${key.name}\n${model.model}`, provider: provider.name, model, health: model })),
]);

/** With what the provider answered last, unless the cause says it: `3 consecutive 5xx (503)`. */
function cause({ cause, evidence }) {
  const told = cause && evidence ? [evidence.status, evidence.code].filter(part => part && !cause.includes(part)).join(' ') : '';
  return told ? `${cause} (${told})` : cause;
}

/** What the provider said, when, and who saw it. */
function said({ evidence: e }) {
  if (!e) return null;
  const who = e.seen_by ? `, seen by ${e.seen_by}` : '';
  return `${[e.excerpt || e.class.replaceAll('_', ' '), e.model && `model ${e.model}`].filter(Boolean).join('; ')} (${f.span(e.ago_ms)} ago${who})`;
}

function row() {
  const cells = {}, tds = [];
  for (const { key, title, number } of COLUMNS) {
    cells[key] = el('td', { class: number ? 'n' : null, 'data-label': title, 'data-cell': key });
    tds.push(cells[key]);
  }
  const state = el('span', { class: 'state' }), value = el('span'), bar = el('i');
  let place = null;
  const again = el('button', {
    type: 'button', class: 'link', title: 'The key is used again, here and on every replica',
    async onclick() {
      again.disabled = true;
      try {
        await ask(`api/v1/providers/${encodeURIComponent(place.provider)}/keys/${encodeURIComponent(place.key)}/restore`, 'POST');
      } catch (error) {
        attr(again, 'title', error.message);
      }
      again.disabled = false;
    },
  }, 'Use again');
  cells.state.append(state);
  cells.rate.append(value, el('span', { class: 'bar', 'aria-hidden': 'true' }, bar));
  cells.again.append(again);
  const node = el('tr', {}, ...tds);
  let before = null;
  return {
    node,
    update({ id, provider, key, model, health: h, rate, busiest }) {
      attr(node, 'data-key', id.replace('\n', ' '));
      attr(node, 'data-state', h.state);
      attr(node, 'data-part', model != null);
      if (before !== null && before !== h.state) {
        node.classList.remove('changed');
        void node.offsetWidth; // begins the animation anew
        node.classList.add('changed');
      }
      before = h.state;
      text(state, h.state);
      attr(cells.state, 'title', `for ${f.span(h.since_ms)}`);
      text(cells.id, key ? key.name : `└ ${model.model}`);
      text(cells.cause, cause(h));
      attr(cells.cause, 'title', said(h));
      text(cells.returns, h.returns_in_ms != null ? f.span(h.returns_in_ms + 999) : h.state === 'ejected' ? 'probed' : '');
      again.hidden = !key || !troubled(key);
      if (!key) {
        text(value, '');
        bar.style.width = '0';
        for (const cell of ['failed', 'requests', 'inflight', 'spared']) text(cells[cell], '');
        return;
      }
      place = { provider, key: key.name };
      text(value, f.rate(rate?.rate));
      bar.style.width = busiest > 0 ? `${Math.round((rate?.rate ?? 0) / busiest * 100)}%` : '0';
      text(cells.failed, f.percent(rate?.failureShare));
      attr(cells.failed, 'data-tone', rate?.failureShare > 0.005 ? 'bad' : null);
      text(cells.requests, f.count(key.attempts));
      text(cells.inflight, f.count(key.inflight));
      text(cells.spared, f.count(key.ejections));
    },
  };
}

function card() {
  const name = el('h3'), kind = el('span', { class: 'tag' }), choose = el('span', { class: 'tag' });
  const healthy = el('span', { class: 'tally' }), numbers = el('span', { class: 'numbers' });
  const plot = chart({ lines: [{ key: 'rate', tone: 'main', area: true }, { key: 'failures', tone: 'bad', area: true, quiet: true }], least: 1 });
  const head = el('thead', {}, el('tr', {}, ...COLUMNS.map(c =>
    el('th', { scope: 'col', class: c.number ? 'n' : null, title: c.hint, 'data-cell': c.key, ...(c.title ? {} : { 'aria-label': 'Operation' }) }, c.title))));
  const body = el('tbody');
  const node = el('article', { class: 'card provider' },
    el('div', { class: 'upstream-head' }, el('div', { class: 'title' }, name, el('span', { class: 'tags' }, kind, choose)), healthy, numbers, plot.node),
    el('div', { class: 'scroll' }, el('table', { class: 'members keys' }, head, body)));
  return {
    node,
    update({ provider: p, rates, series, at, filter, troubleOnly }) {
      attr(node, 'data-provider', p.name);
      text(name, p.name);
      attr(name, 'title', p.origin);
      text(kind, p.type);
      text(choose, p.choose.replaceAll('_', ' '));
      const counts = tally(p.keys);
      const fit = counts.healthy ?? 0;
      text(healthy, fit === p.keys.length ? f.plural(fit, 'key') : `${fit} of ${p.keys.length} healthy · ${troubles(counts)}`);
      attr(healthy, 'data-tone', !fit ? 'bad' : fit < p.keys.length ? 'warn' : null);
      const failovers = p.failovers.reduce((sum, cause) => sum + cause.count, 0);
      text(numbers, [
        `${f.rate(rates?.rate)}/s`, `${f.percent(rates?.failureShare)} failed`, `${f.count(p.inflight)} in flight`,
        failovers && f.plural(failovers, 'failover'), p.exhausted && `${f.count(p.exhausted)} found no key`,
      ].filter(Boolean).join(' · '));
      attr(numbers, 'title', [`${f.count(p.input_tokens)} tokens in, ${f.count(p.output_tokens)} out`, ...p.failovers.map(c => `${c.count} × ${c.cause.replaceAll('_', ' ')}`)].join('\n'));
      plot.draw(series?.points ?? [], at);
      let busiest = 0;
      for (const r of rates?.keys.values() ?? []) busiest = Math.max(busiest, r.rate ?? 0);
      const shown = { ...p, keys: p.keys.filter(k => (!filter || p.name.toLowerCase().includes(filter) || k.name.toLowerCase().includes(filter)) && (!troubleOnly || troubled(k))) };
      keyed(body, rowsOf(shown, rates, busiest), r => r.id, row);
    },
  };
}

export function updateProviders(answer, now, tracker, at, { filter, troubleOnly }) {
  byId('providers-section').hidden = !answer.providers.length;
  const shown = answer.providers.filter(p => (!troubleOnly || p.keys.some(troubled)) &&
    (!filter || p.name.toLowerCase().includes(filter) || p.keys.some(k => k.name.toLowerCase().includes(filter))));
  text(byId('providers-count'), shown.length === answer.providers.length ? shown.length : `${shown.length} of ${answer.providers.length}`);
  keyed(byId('providers'), shown.map(provider => ({
    provider, rates: now.providers.get(provider.name), series: tracker.providers.get(provider.name), at, filter, troubleOnly,
  })), p => p.provider.name, card);
  const none = byId('providers-none');
  none.hidden = shown.length > 0;
  text(none, filter ? 'No provider or key matches the filter.' : 'No trouble: every key is healthy.');
}
