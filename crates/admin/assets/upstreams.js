// Upstreams with their members.

import { el, text, attr, byId, keyed } from './dom.js';
import { chart } from './chart.js';
import { tally, troubles } from './summary.js';
import * as f from './format.js';

/** Larger pools show these many rows, the troubled first, until asked for all. */
const FEW = 8, ALL_UP_TO = 12;

const COLUMNS = [
  { key: 'state', title: 'State', sort: m => ['ejected', 'probing', 'draining', 'warming', 'healthy'].indexOf(m.state) },
  { key: 'id', title: 'Member', sort: m => m.id },
  { key: 'cause', title: 'Cause' },
  { key: 'returns', title: 'Returns in', number: true, sort: m => m.returns_in_ms ?? Infinity },
  { key: 'rate', title: 'Rate', number: true, sort: (m, r) => -(r?.rate ?? 0), hint: 'attempts a second; the bar compares with the busiest member' },
  { key: 'failed', title: 'Failed', number: true, sort: (m, r) => -(r?.failureShare ?? 0), hint: 'share of the attempts of the last seconds' },
  { key: 'ewma', title: 'EWMA', number: true, sort: m => -m.ewma_us, hint: 'peak-sensitive average of the latency: rises with one slow answer, falls slowly; peak_ewma balances by it' },
  { key: 'inflight', title: 'In flight', number: true, sort: m => -m.inflight },
  { key: 'connections', title: 'Conns', number: true, sort: m => -m.connections },
  { key: 'weight', title: 'Weight', number: true, sort: m => -m.weight },
  { key: 'zone', title: 'Zone', sort: m => `${m.region}/${m.zone}` },
];

const order = { key: null, back: false };
let redraw = () => {};
export const onChange = then => { redraw = then; };

function header() {
  const cells = COLUMNS.map(column => {
    const cell = el('th', { scope: 'col', class: column.number ? 'n' : null, title: column.hint, 'data-cell': column.key });
    if (!column.sort) cell.append(column.title);
    else {
      cell.append(el('button', {
        type: 'button',
        onclick() {
          // As it comes → sorted → the other way → as it comes.
          if (order.key !== column.key) Object.assign(order, { key: column.key, back: false });
          else if (!order.back) order.back = true;
          else order.key = null;
          redraw();
        },
      }, column.title));
    }
    return cell;
  });
  return {
    node: el('thead', {}, el('tr', {}, ...cells)),
    update() {
      COLUMNS.forEach((c, i) => attr(cells[i], 'aria-sort', order.key === c.key ? (order.back ? 'descending' : 'ascending') : null));
    },
  };
}

function sorted(members, rates) {
  const column = COLUMNS.find(c => c.key === order.key);
  if (!column) return members;
  const keyOf = new Map(members.map(m => [m, column.sort(m, rates?.get(m.id))]));
  const compare = (a, b) => typeof a === 'string' ? a.localeCompare(b, undefined, { numeric: true }) : a < b ? -1 : a > b ? 1 : 0;
  return members.toSorted((a, b) => compare(keyOf.get(a), keyOf.get(b)) * (order.back ? -1 : 1));
}

function row() {
  const cells = {}, tds = [];
  for (const { key, title, number } of COLUMNS) {
    cells[key] = el('td', { class: number ? 'n' : null, 'data-label': title, 'data-cell': key });
    tds.push(cells[key]);
  }
  const state = el('span', { class: 'state' });
  cells.state.append(state);
  const value = el('span'), bar = el('i');
  cells.rate.append(value, el('span', { class: 'bar', 'aria-hidden': 'true' }, bar));
  const node = el('tr', {}, ...tds);
  let before = null;
  return {
    node,
    update({ member: m, rate, busiest, typical }) {
      attr(node, 'data-member', m.id);
      attr(node, 'data-state', m.state);
      if (before !== null && before !== m.state) {
        node.classList.remove('changed');
        void node.offsetWidth; // begins the animation anew
        node.classList.add('changed');
      }
      before = m.state;
      text(state, m.state);
      attr(cells.state, 'title', `for ${f.span(m.since_ms)}; ejected ${f.plural(m.ejections, 'time')}`);
      text(cells.id, m.id);
      attr(cells.id, 'title', m.id);
      text(cells.cause, m.cause);
      attr(cells.cause, 'title', m.cause || null);
      text(cells.returns, m.returns_in_ms == null ? '' : f.span(m.returns_in_ms + 999));
      text(cells.inflight, f.count(m.inflight));
      text(value, f.rate(rate?.rate));
      bar.style.width = busiest > 0 ? `${Math.round((rate?.rate ?? 0) / busiest * 100)}%` : '0';
      text(cells.failed, f.percent(rate?.failureShare));
      attr(cells.failed, 'data-tone', rate?.failureShare > 0.005 ? 'bad' : null);
      text(cells.ewma, f.micros(m.ewma_us));
      attr(cells.ewma, 'data-tone', typical > 0 && m.ewma_us > 3 * typical ? 'warn' : null);
      text(cells.connections, f.count(m.connections));
      text(cells.weight, m.weight);
      text(cells.zone, [m.region, m.zone].filter(Boolean).join('/') || '–');
    },
  };
}

function card() {
  const name = el('h3'), tags = el('span', { class: 'tags' }), healthy = el('span', { class: 'tally' });
  const balance = el('span', { class: 'tag' }), source = el('span', { class: 'tag' }), panic = el('span', { class: 'tag', 'data-tone': 'bad', title: 'Too few members are healthy: all of them are used' }, 'panic');
  tags.append(balance, source, panic);
  const numbers = el('span', { class: 'numbers' });
  const plot = chart({ lines: [{ key: 'rate', tone: 'main', area: true }, { key: 'failures', tone: 'bad', area: true, quiet: true }], least: 1 });
  const strip = el('div', { class: 'strip', role: 'img' });
  const trouble = el('p', { class: 'notice', 'data-tone': 'warn' });
  const head = header(), body = el('tbody');
  const table = el('table', { class: 'members' }, head.node, body);
  const none = el('p', { class: 'none' }, 'No members.');
  let all = false;
  const more = el('button', { type: 'button', class: 'link more', onclick() { all = !all; redraw(); } });
  const node = el('article', { class: 'card upstream' },
    el('div', { class: 'upstream-head' }, el('div', { class: 'title' }, name, tags), healthy, numbers, plot.node),
    strip, trouble, el('div', { class: 'scroll' }, table), none, more);
  return {
    node,
    update({ upstream: u, rates, series, at, filter, troubleOnly }) {
      attr(node, 'data-upstream', u.name);
      text(name, u.name);
      text(balance, u.balance);
      text(source, u.source);
      panic.hidden = !u.panic;
      const counts = tally(u.members);
      text(healthy, counts.healthy === u.members.length && u.members.length ? f.plural(u.members.length, 'member') : `${counts.healthy ?? 0} of ${u.members.length} healthy${troubles(counts) ? ` · ${troubles(counts)}` : ''}`);
      attr(healthy, 'data-tone', !u.members.length || !counts.healthy ? 'bad' : counts.healthy < u.members.length ? 'warn' : null);
      text(numbers, `${f.rate(rates?.rate)}/s · ${f.percent(rates?.failureShare)} failed · ${f.count(u.inflight)} in flight`);
      plot.draw(series?.points ?? [], at);
      trouble.hidden = !u.source_error;
      text(trouble, u.source_error ? `${u.source}: ${u.source_error}. The last good list stays in use.` : '');
      attr(strip, 'aria-label', `${f.plural(u.members.length, 'member')}: ${counts.healthy ?? 0} healthy${troubles(counts) ? `, ${troubles(counts)}` : ''}`);
      strip.hidden = u.members.length <= ALL_UP_TO;
      attr(strip, 'data-many', u.members.length > 200);
      if (!strip.hidden) {
        keyed(strip, u.members, m => m.id, () => {
          const cell = el('i');
          return { node: cell, update(m) { attr(cell, 'data-state', m.state); attr(cell, 'title', `${m.id}: ${m.state}${m.cause ? `, ${m.cause}` : ''}`); } };
        });
      }
      let members = u.members.filter(m => (!filter || u.name.toLowerCase().includes(filter) || m.id.toLowerCase().includes(filter)) && (!troubleOnly || m.state !== 'healthy'));
      const cut = !filter && !troubleOnly && members.length > ALL_UP_TO;
      more.hidden = !cut;
      text(more, all ? `Show ${FEW} of ${members.length}` : `Show all ${members.length} members`);
      members = sorted(members, rates?.members);
      if (cut && !all) {
        if (order.key == null) members = [...members.filter(m => m.state !== 'healthy'), ...members.filter(m => m.state === 'healthy')];
        members = members.slice(0, FEW);
      }
      head.update();
      const latencies = u.members.filter(m => m.ewma_us > 0).map(m => m.ewma_us).sort((a, b) => a - b);
      const typical = latencies.length > 2 ? latencies[latencies.length >> 1] : 0;
      let busiest = 0;
      for (const r of rates?.members.values() ?? []) busiest = Math.max(busiest, r.rate ?? 0);
      keyed(body, members.map(member => ({ member, rate: rates?.members.get(member.id), busiest, typical })), r => r.member.id, row);
      table.hidden = !members.length;
      none.hidden = u.members.length > 0;
    },
  };
}

const troubled = u => u.panic || u.source_error || !u.members.length || u.members.some(m => m.state !== 'healthy');

export function updateUpstreams(answer, now, tracker, at, { filter, troubleOnly }) {
  const shown = answer.upstreams.filter(u => (!troubleOnly || troubled(u)) &&
    (!filter || u.name.toLowerCase().includes(filter) || u.members.some(m => m.id.toLowerCase().includes(filter))));
  text(byId('upstreams-count'), shown.length === answer.upstreams.length ? shown.length : `${shown.length} of ${answer.upstreams.length}`);
  keyed(byId('upstreams'), shown.map(upstream => ({
    upstream, rates: now.pools.get(upstream.name), series: tracker.pools.get(upstream.name), at, filter, troubleOnly,
  })), u => u.upstream.name, card);
  const none = byId('upstreams-none');
  none.hidden = shown.length > 0;
  text(none, !answer.upstreams.length ? 'The configuration has no upstreams.' : filter ? 'No upstream or member matches the filter.' : 'No trouble: every member is healthy.');
}
