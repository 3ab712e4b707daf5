// Numbers as people read them. The same rules as `tidegate status` has.

export function micros(us) {
  if (us == null || us < 1) return '–';
  if (us < 999.5) return `${us.toFixed(0)} µs`;
  if (us < 9995) return `${(us / 1e3).toFixed(2)} ms`;
  if (us < 99950) return `${(us / 1e3).toFixed(1)} ms`;
  if (us < 999500) return `${(us / 1e3).toFixed(0)} ms`;
  if (us < 9995000) return `${(us / 1e6).toFixed(2)} s`;
  return `${(us / 1e6).toFixed(0)} s`;
}

export function span(ms) {
  const s = Math.floor(ms / 1000);
  const two = (big, bigUnit, small, smallUnit) => `${big} ${bigUnit}${small ? ` ${small} ${smallUnit}` : ''}`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return two(Math.floor(s / 60), 'min', s % 60, 's');
  if (s < 86400) return two(Math.floor(s / 3600), 'h', Math.floor(s % 3600 / 60), 'min');
  return two(Math.floor(s / 86400), 'd', Math.floor(s % 86400 / 3600), 'h');
}

export function rate(perSecond) {
  if (perSecond == null) return '–';
  if (perSecond < 0.005) return '0';
  if (perSecond < 0.995) return perSecond.toFixed(2);
  if (perSecond < 99.95) return perSecond.toFixed(1);
  if (perSecond < 9999.5) return perSecond.toFixed(0);
  if (perSecond < 999500) return `${(perSecond / 1e3).toFixed(1)}k`;
  return `${(perSecond / 1e6).toFixed(2)}M`;
}

export function percent(share) {
  if (share == null) return '–';
  const p = share * 100;
  if (p <= 0) return '0%';
  if (p < 0.1) return '<0.1%';
  return `${p < 9.95 ? p.toFixed(1) : p.toFixed(0)}%`;
}

export function count(n) {
  return n < 1e6 ? Math.round(n).toLocaleString('en') : n < 999.5e6 ? `${(n / 1e6).toFixed(1)}M` : `${(n / 1e9).toFixed(2)}G`;
}

export function bytes(n) {
  if (!n) return '–';
  return n < 1 << 30 ? `${(n / (1 << 20)).toFixed(n < 100 << 20 ? 1 : 0)} MiB` : `${(n / (1 << 30)).toFixed(2)} GiB`;
}

const clockFormat = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const dayFormat = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium', hourCycle: 'h23' });
export const clock = atMs => clockFormat.format(atMs);
export const day = atMs => dayFormat.format(atMs);

export const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;
