// Sparklines as SVG. A chart is made once; a draw replaces the `d` of its paths.

import { el, text, attr } from './dom.js';

/** The longest time shown, and the least: a young chart is not stretched from two points over the whole width. */
const LONGEST = 300000, LEAST = 30000;
const W = 300, H = 100;

/** A round number at or above n, so that the scale does not twitch with every point. */
export function ceiling(n) {
  if (!(n > 0)) return 1;
  const magnitude = 10 ** Math.floor(Math.log10(n));
  for (const step of [1, 1.5, 2, 3, 4, 5, 6, 8, 10]) if (n <= step * magnitude * 1.0000001) return step * magnitude;
  return 10 * magnitude;
}

function path(points, key, x, y, floor) {
  let line = '', area = '', begun = null, last = null;
  const close = () => {
    if (begun != null && floor) area += `L${last.toFixed(1)} ${H}L${begun.toFixed(1)} ${H}Z`;
    begun = null;
  };
  for (const point of points) {
    const value = point[key];
    if (point.gap || value == null) { close(); continue; }
    const px = x(point.at), step = `${begun == null ? 'M' : 'L'}${px.toFixed(1)} ${y(value).toFixed(1)}`;
    line += step;
    if (floor) area += step;
    if (begun == null) begun = px;
    last = px;
  }
  close();
  return { line, area };
}

/**
 * A chart of series `lines: [{ key, tone, area, quiet }]`. `least` is the smallest top of the scale; `say` words a point for
 * the pointer; without it the chart is an ornament beside its number and hidden from assistive technology.
 */
export function chart({ lines, least = 1, say, label }) {
  const parts = lines.map(({ key, tone, area, quiet }) => ({
    key,
    quiet,
    area: area ? el('svg:path', { class: 'area', 'data-tone': tone }) : null,
    line: el('svg:path', { class: 'line', 'data-tone': tone }),
  }));
  const cursor = el('svg:line', { class: 'cursor', y1: 0, y2: H, visibility: 'hidden' });
  const svg = el('svg:svg', { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: 'none', class: 'chart', 'aria-hidden': 'true' },
    ...parts.map(p => p.area), ...parts.map(p => p.line), cursor);
  const top = el('span', { class: 'scale' });
  const bubble = el('span', { class: 'bubble', hidden: true });
  const node = el('div', { class: 'plot' }, svg, label ? top : null, bubble);
  let shown = [], from = 0, to = 1;

  if (say) {
    node.addEventListener('pointermove', event => {
      const box = svg.getBoundingClientRect();
      const at = from + (to - from) * (event.clientX - box.left) / box.width;
      const point = shown.reduce((best, p) => p.gap || best && Math.abs(best.at - at) < Math.abs(p.at - at) ? best : p, null);
      if (!point) return;
      const px = (point.at - from) / (to - from) * W;
      attr(cursor, 'x1', px.toFixed(1));
      attr(cursor, 'x2', px.toFixed(1));
      attr(cursor, 'visibility', 'visible');
      bubble.hidden = false;
      text(bubble, `${say(point)}, ${Math.max(0, Math.round((to - point.at) / 1000))} s ago`);
      bubble.classList.toggle('flip', px > W / 2);
      bubble.style.left = `${px / W * 100}%`;
    });
    node.addEventListener('pointerleave', () => {
      attr(cursor, 'visibility', 'hidden');
      bubble.hidden = true;
    });
  }

  return {
    node,
    draw(points, at) {
      to = at;
      const oldest = points.find(p => p.at >= to - LONGEST)?.at ?? to;
      from = Math.max(to - LONGEST, Math.min(to - LEAST, oldest));
      shown = points.filter(p => p.at >= from - 2000);
      let most = least;
      for (const p of shown) for (const { key } of parts) if (p[key] > most) most = p[key];
      most = ceiling(most);
      const x = t => (t - from) / (to - from) * W;
      const y = v => H - v / most * (H - 4) - 1.5;
      for (const part of parts) {
        // A quiet line says nothing as long as it is zero, rather than drawing the floor in red.
        const silent = part.quiet && !shown.some(p => p[part.key] > 0);
        const { line, area } = silent ? { line: '', area: '' } : path(shown, part.key, x, y, part.area);
        attr(part.line, 'd', line);
        if (part.area) attr(part.area, 'd', area);
      }
      if (label) text(top, label(most));
    },
  };
}
