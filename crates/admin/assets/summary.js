// The header and the tiles: is all well, and how much is going on.

import { el, text, attr, byId, keyed } from './dom.js';
import { chart } from './chart.js';
import { members as allMembers } from './rates.js';
import * as f from './format.js';

const STATES = ['healthy', 'ejected', 'probing', 'draining', 'warming', 'gone'];

/** `{ healthy: 3, ejected: 1 }` over members. */
export function tally(members) {
  const counts = {};
  for (const { state } of members) counts[state] = (counts[state] ?? 0) + 1;
  return counts;
}

/** `1 ejected · 2 draining`, without the healthy ones. */
export const troubles = counts =>
  Object.keys(counts).filter(state => state !== 'healthy').sort((a, b) => STATES.indexOf(a) - STATES.indexOf(b))
    .map(state => `${counts[state]} ${state}`).join(' · ');

function tile(name, { lines, least, say, label }) {
  const value = el('strong', { class: 'big' }, '–');
  const note = el('span', { class: 'note' }, '\u00a0');
  const plot = chart({ lines, least, say, label });
  return { node: el('div', { class: 'tile', 'data-tile': name.toLowerCase() }, el('h3', {}, name), value, note, plot.node), value, note, plot };
}

export function makeTiles(parent) {
  const tiles = {
    rate: tile('Requests', { lines: [{ key: 'rate', tone: 'main', area: true }], least: 10, label: m => `${f.rate(m)}/s`, say: p => `${f.rate(p.rate)}/s` }),
    errors: tile('Errors', { lines: [{ key: 'errors', tone: 'bad', area: true, quiet: true }], least: 1, label: m => `${f.rate(m)}/s`, say: p => `${f.rate(p.errors)}/s, ${f.percent(p.share)}` }),
    latency: tile('Latency', { lines: [{ key: 'p99', tone: 'warn', area: true }, { key: 'p50', tone: 'main' }], least: 1000, label: f.micros, say: p => `p99 ${f.micros(p.p99)}, p50 ${f.micros(p.p50)}` }),
    inflight: tile('In flight', { lines: [{ key: 'inflight', tone: 'main', area: true }], least: 4, label: f.count, say: p => f.count(p.inflight) }),
    members: tile('Members', { lines: [{ key: 'unhealthy', tone: 'bad', area: true, quiet: true }], least: 4, label: f.count, say: p => `${p.unhealthy} not healthy` }),
  };
  parent.append(...Object.values(tiles).map(t => t.node));
  return tiles;
}

export function updateTiles(tiles, answer, now, tracker, at) {
  const points = tracker.totals.points;
  const sum = key => answer.routes.reduce((n, r) => n + r[key], 0);
  text(tiles.rate.value, now.rate == null ? '–' : `${f.rate(now.rate)}/s`);
  text(tiles.rate.note, `${f.count(sum('requests'))} since the start`);
  text(tiles.errors.value, now.seconds == null ? '–' : f.percent(now.errorShare));
  attr(tiles.errors.node, 'data-alarm', now.errorShare > 0.01);
  text(tiles.errors.note, `${f.count(sum('errors'))} since the start`);
  text(tiles.latency.value, f.micros(now.p99));
  text(tiles.latency.note, `p99; p50 ${f.micros(now.p50)}`);
  text(tiles.inflight.value, f.count(now.inflight));
  text(tiles.inflight.note, f.plural(now.connections, 'connection'));
  const members = allMembers(answer);
  const counts = tally(members);
  text(tiles.members.value, `${counts.healthy ?? 0} of ${members.length}`);
  const kinds = troubles(counts).split(' · ');
  text(tiles.members.note, kinds.length > 2 ? `${kinds[0]} · ${members.length - (counts.healthy ?? 0) - parseInt(kinds[0], 10)} other` : kinds.join(' · ') || 'all healthy');
  attr(tiles.members.note, 'title', kinds.join(' · ') || null);
  attr(tiles.members.node, 'data-alarm', (counts.ejected ?? 0) > 0);
  for (const t of Object.values(tiles)) t.plot.draw(points, at);
}

export function updateHeader(answer, now) {
  const { readiness, config, process } = answer;
  const pill = byId('ready');
  text(pill, readiness.ready ? 'ready' : `not ready: ${readiness.reason || 'no reason given'}`);
  attr(pill, 'data-tone', readiness.ready ? 'good' : 'bad');
  const node = [config.region, config.zone].filter(Boolean).join(' / ');
  byId('node').hidden = !node;
  text(byId('node'), node);
  text(byId('open-config'), config.generation);
  text(byId('uptime'), f.span(answer.uptime_ms));
  text(byId('cpu'), now.cpu == null ? '–' : f.percent(now.cpu));
  text(byId('memory'), f.bytes(process.memory_bytes));
  text(byId('fds'), process.max_fds ? `${process.open_fds} of ${f.count(process.max_fds)}` : '–');
  text(byId('version'), answer.version);
  const ejected = tally(allMembers(answer)).ejected ?? 0;
  document.title = `${readiness.ready ? '' : 'not ready · '}${ejected ? `${ejected} ejected · ` : ''}Tidegate`;
  say(readiness.ready ? 'ready' : `not ready: ${readiness.reason}`);
}

let said = '';
/** For assistive technology: only what one would be told across the room. */
export function say(sentence) {
  if (said !== sentence) text(byId('spoken'), said = sentence);
}

/** Lines under the header: `[{ id, tone, text, more }]`. */
export function notices(list) {
  keyed(byId('notices'), list, n => n.id, () => {
    const line = el('span', {}), more = el('pre', {});
    const node = el('div', { class: 'notice' }, line, more);
    return {
      node,
      update(n) {
        attr(node, 'data-tone', n.tone);
        attr(node, 'data-notice', n.id);
        text(line, n.text);
        more.hidden = !n.more;
        text(more, n.more ?? '');
      },
    };
  });
}

export function updateListeners(listeners) {
  keyed(byId('listeners'), listeners, l => l.name, () => {
    const name = el('strong'), address = el('code'), tls = el('span', { class: 'tag' }, 'TLS'), connections = el('span', { class: 'note' });
    return {
      node: el('li', { class: 'card' }, name, address, tls, connections),
      update(l) {
        text(name, l.name);
        text(address, l.address);
        tls.hidden = !l.tls;
        text(connections, f.plural(l.connections, 'connection'));
      },
    };
  });
}
