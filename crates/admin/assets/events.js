// The feed of events, the newest first.

import { el, text, byId, keyed } from './dom.js';
import * as f from './format.js';

const MOST = 250;

/** Tone of an event by its kind. By the words that kinds are made of, so that a new kind has a fitting one by itself. */
const TONES = [
  [/_(ejected|refused|failed|lost)$|_not_/, 'bad'],
  [/_(returned|loaded|started|back|renewed)$/, 'good'],
  [/_(probing|error)$|^draining$|panic/, 'warn'],
  [/_(added|warming)$/, 'main'],
  [/_draining$/, 'other'],
  [/_removed$/, 'off'],
];
export const tone = kind => TONES.find(([pattern]) => pattern.test(kind))?.[1] ?? null;

let events = [];

/** Events in the order in which they happened; of one moment, as they came: a run's come in the order of their numbers. */
export const inOrder = list => list.toSorted((a, b) => a.at_ms - b.at_ms);

/** Takes new events; those of the page itself (`page`) have numbers of their own. */
export function addEvents(list, instance) {
  if (!list.length) return;
  // Some are told late: the end of an ejection when the sweep finds it, a start when the new run first answers.
  events = inOrder([...events, ...list.map(event => ({ ...event, key: `${instance}-${event.seq}` }))]).slice(-MOST);
}

let locals = 0;
/** Something that the page saw, at a time of the gateway's clock: the browser's may be another one. */
export function addLocal(kind, cause, at_ms) {
  addEvents([{ seq: ++locals, at_ms, kind, subject: '', member: '', cause }], 'page');
}

function item(event) {
  const place = [event.subject, event.member].filter(Boolean);
  return {
    node: el('li', { 'data-tone': tone(event.kind), 'data-kind': event.kind },
      el('time', { datetime: new Date(event.at_ms).toISOString(), title: f.day(event.at_ms) }, f.clock(event.at_ms)),
      el('span', { class: 'what' }, event.kind.replaceAll('_', ' ')),
      place.length ? el('span', { class: 'where' }, ...place.flatMap((p, i) => i ? [' ', el('code', {}, p)] : [p])) : null,
      // `member added` needs no `added` below it.
      event.cause && !event.kind.endsWith(event.cause) ? el('span', { class: 'why' }, event.cause) : null),
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
