// The feed of events, the newest first.

import { el, text, byId, keyed } from './dom.js';
import * as f from './format.js';

const MOST = 250;

/** Tone of an event's dot by its kind; what is not known here is neutral. */
const TONES = {
  member_ejected: 'bad', config_refused: 'bad', member_failed: 'bad', connection_lost: 'bad',
  member_returned: 'good', member_healthy: 'good', config_loaded: 'good', gateway_started: 'good', connection_back: 'good',
  member_added: 'main', member_removed: 'off', member_draining: 'other', drain_started: 'warn',
  member_probing: 'warn', member_warming: 'main', source_error: 'warn', panic_entered: 'bad', panic_left: 'good',
};

let events = [];

/** Takes new events; those of the page itself (`local`) have no number of the gateway's. */
export function addEvents(list, instance) {
  for (const event of list) events.push({ ...event, key: `${instance}-${event.seq}` });
  if (events.length > MOST) events = events.slice(-MOST);
}

let locals = 0;
export function addLocal(kind, cause) {
  addEvents([{ seq: ++locals, at_ms: Date.now(), kind, subject: '', member: '', cause }], 'page');
}

function item(event) {
  const place = [event.subject, event.member].filter(Boolean);
  return {
    node: el('li', { 'data-tone': TONES[event.kind] ?? null, 'data-kind': event.kind },
      el('time', { datetime: new Date(event.at_ms).toISOString(), title: f.day(event.at_ms) }, f.clock(event.at_ms)),
      el('span', { class: 'what' }, event.kind.replaceAll('_', ' ')),
      place.length ? el('span', { class: 'where' }, ...place.flatMap((p, i) => i ? [' ', el('code', {}, p)] : [p])) : null,
      event.cause ? el('span', { class: 'why' }, event.cause) : null),
  };
}

export function updateEvents({ filter }) {
  const shown = events.filter(e => !filter || `${e.kind} ${e.subject} ${e.member} ${e.cause}`.toLowerCase().includes(filter)).reverse();
  const feed = byId('events').parentElement;
  // Someone who reads further down is not pushed away by what comes in above.
  const height = feed.scrollHeight, at = feed.scrollTop;
  keyed(byId('events'), shown, e => e.key, item);
  if (at > 8) feed.scrollTop = at + feed.scrollHeight - height;
  text(byId('events-count'), shown.length || '');
  byId('events-none').hidden = shown.length > 0;
  text(byId('events-none'), events.length ? 'No event matches the filter.' : 'Nothing has happened yet.');
}
