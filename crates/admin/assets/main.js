// The dashboard: asks once a second and brings the page up to date.

import { ask, poll } from './api.js';
import { Tracker } from './rates.js';
import { byId, el, text } from './dom.js';
import { makeTiles, notices, say, updateHeader, updateListeners, updateTiles } from './summary.js';
import { onChange, updateUpstreams } from './upstreams.js';
import { updateProviders } from './providers.js';
import { updateServices } from './services.js';
import { updateRoutes } from './routes.js';
import { addEvents, addLocal, updateEvents } from './events.js';
import * as f from './format.js';

const tracker = new Tracker();
const tiles = makeTiles(byId('tiles'));
const view = { filter: '', troubleOnly: false };
let last = null, lostSince = null, instance = null;

function draw() {
  if (!last) return;
  const { answer, now, at } = last;
  updateHeader(answer, now);
  updateTiles(tiles, answer, now, tracker, at);
  updateRoutes(answer, now, tracker, at, view);
  updateUpstreams(answer, now, tracker, at, view);
  updateProviders(answer, now, tracker, at, view);
  updateServices(answer, view);
  updateListeners(answer.listeners);
  updateEvents(view);
  showNotices();
}

function showNotices() {
  const list = [];
  if (lostSince != null) {
    const seconds = Math.round((Date.now() - lostSince) / 1000);
    list.push({ id: 'lost', tone: 'bad', text: `No answer from the gateway for ${seconds} s. Trying again; what you see is the last it said.` });
  }
  const store = last?.answer.store;
  if (store && !store.connected) list.push({ id: 'store', tone: 'warn', text: `The store at ${store.url} is away: this process goes by what it knows.` });
  const refused = last?.answer.config.refused;
  if (refused) list.push({ id: 'refused', tone: 'warn', text: 'The last reload was refused; the running configuration stays.', more: refused });
  notices(list);
}

function data(answer) {
  const at = Date.now();
  if (instance !== null && answer.instance !== instance) {
    tracker.gap(at);
    // Its first events may be older than its admin port.
    const began = Math.min(answer.at_ms - answer.uptime_ms, ...answer.events.map(event => event.at_ms));
    addLocal('gateway_started', 'another run answers now; its counters begin anew', began);
  } else if (lostSince != null) {
    addLocal('connection_back', `after ${Math.round((at - lostSince) / 1000)} s`, answer.at_ms);
  }
  instance = answer.instance;
  lostSince = null;
  document.body.classList.remove('loading', 'lost');
  addEvents(answer.events, answer.instance);
  last = { answer, now: tracker.take(answer, at), at };
  draw();
}

function lost(error) {
  if (lostSince == null) {
    lostSince = last?.at ?? Date.now();
    if (last) addLocal('connection_lost', error.status ? error.message : '', last.answer.at_ms + Date.now() - last.at);
    tracker.gap(Date.now());
    updateEvents(view);
    document.body.classList.add('lost');
    const pill = byId('ready');
    text(pill, 'no answer');
    pill.dataset.tone = 'off';
    document.title = 'no answer · Tidegate';
    say('the gateway does not answer');
  }
  showNotices();
}

// --- the token ----------------------------------------------------------------------------------

const tokenDialog = byId('token-dialog');
tokenDialog.addEventListener('cancel', event => event.preventDefault());

function askToken(wasWrong) {
  text(byId('token-wrong'), wasWrong ? 'That was not it.' : '');
  byId('token').value = '';
  if (!tokenDialog.open) tokenDialog.showModal();
  return new Promise(resolve => {
    byId('token-form').addEventListener('submit', event => {
      event.preventDefault();
      tokenDialog.close();
      resolve(byId('token').value.trim());
    }, { once: true });
  });
}

// --- the configuration --------------------------------------------------------------------------

const configDialog = byId('config-dialog');
byId('config-close').addEventListener('click', () => configDialog.close());
byId('open-config').addEventListener('click', () => {
  text(byId('reload-answer'), '');
  configDialog.showModal();
  showConfig();
});
byId('reload').addEventListener('click', async () => {
  const button = byId('reload'), answer = byId('reload-answer');
  button.disabled = true;
  text(answer, 'reloading …');
  try {
    text(answer, `accepted: generation ${(await ask('api/v1/config/reload', 'POST')).generation}`);
  } catch (error) {
    text(answer, error.message);
  }
  button.disabled = false;
  showConfig();
});

async function showConfig() {
  try {
    const config = await ask('api/v1/config');
    const facts = [['Generation', config.generation], ['Hash', config.hash], ['Loaded', f.day(config.loaded_at_ms)], ['Files', config.files.join(', ') || '–']];
    byId('config-facts').replaceChildren(...facts.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, String(value)))));
    const refused = byId('config-refused');
    refused.hidden = !config.refused;
    text(refused, config.refused ?? '');
    text(byId('config-text'), JSON.stringify(config.config, null, 2));
  } catch (error) {
    text(byId('config-text'), error.message);
  }
}

// --- the tools ----------------------------------------------------------------------------------

byId('filter').addEventListener('input', event => {
  view.filter = event.target.value.trim().toLowerCase();
  draw();
});
byId('trouble').addEventListener('click', event => {
  view.troubleOnly = !view.troubleOnly;
  event.currentTarget.setAttribute('aria-pressed', String(view.troubleOnly));
  draw();
});
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  const typing = event.target.closest?.('input, textarea, select');
  if (event.key === '/' && !typing) {
    event.preventDefault();
    byId('filter').focus();
  } else if (event.key === 'Escape' && event.target === byId('filter')) {
    event.target.value = '';
    event.target.dispatchEvent(new Event('input'));
    event.target.blur();
  }
});

const THEMES = ['auto', 'light', 'dark'];
let theme = 'auto';
try { theme = localStorage.getItem('tidegate-theme') ?? 'auto'; } catch { /* not kept */ }
function showTheme() {
  document.documentElement.dataset.theme = theme;
  text(byId('theme'), theme[0].toUpperCase() + theme.slice(1));
}
byId('theme').addEventListener('click', () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.setItem('tidegate-theme', theme); } catch { /* not kept */ }
  showTheme();
});

showTheme();
onChange(draw);
poll({ data, lost, token: askToken });
