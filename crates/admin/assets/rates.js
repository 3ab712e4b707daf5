// From counters to rates: the gateway tells totals since its start, two answers and the time between make a rate.
// Pure: no document, no clock.

/** Rates shown as numbers are over this many milliseconds: steady enough to read, quick enough to see a change. */
export const WINDOW = 5000;
/** Points kept for the charts, one an answer. */
export const POINTS = 300;

/** What a counter grew by. A smaller one began anew (a member that left and came back). */
export const grown = (now, before) => before == null || now < before ? (before == null ? 0 : now) : now - before;

/** The duration below which the share q of the requests between two cumulative histograms stayed, in microseconds. */
export function quantile(now, before, q) {
  if (!now) return null;
  const fits = before && before.count <= now.count && before.counts.length === now.counts.length;
  const total = now.count - (fits ? before.count : 0);
  if (total <= 0) return null;
  const rank = q * total;
  let low = 0, below = 0;
  for (let i = 0; i < now.bounds_us.length; i++) {
    const high = now.bounds_us[i];
    const at = now.counts[i] - (fits ? before.counts[i] : 0);
    if (at >= rank && at > below) return low + (high - low) * Math.min(1, Math.max(0, (rank - below) / (at - below)));
    low = high;
    below = Math.max(below, at);
  }
  return low;
}

/** The sum of histograms with the same bounds. */
export function together(histograms) {
  let sum = null;
  for (const h of histograms) {
    if (!h) continue;
    if (!sum) sum = { bounds_us: h.bounds_us, counts: h.counts.slice(), count: h.count };
    else if (sum.counts.length === h.counts.length) {
      h.counts.forEach((n, i) => { sum.counts[i] += n; });
      sum.count += h.count;
    }
  }
  return sum;
}

const share = (part, whole) => whole > 0 ? part / whole : null;
const byName = (list, key = 'name') => new Map(list.map(item => [item[key], item]));
const total = (list, of) => list.reduce((sum, item) => sum + of(item), 0);

/** Points of a chart with a time each; a gap where the gateway was away. */
export class Series {
  constructor() { this.points = []; }
  push(at, values) {
    this.points.push({ at, ...values });
    if (this.points.length > POINTS) this.points.shift();
  }
}

/** Everything that stands in a pool: members of upstreams and keys of providers. */
export const members = answer => [...answer.upstreams.flatMap(u => u.members), ...answer.providers.flatMap(p => p.keys)];

/** Takes answers, gives rates; keeps the last few answers and the points of the charts. */
export class Tracker {
  constructor() {
    this.answers = [];
    this.totals = new Series();
    this.pools = new Map();
    this.providers = new Map();
    this.routes = new Map();
  }

  /** A gap in every chart: nothing is known of that time. */
  gap(at) {
    for (const series of [this.totals, ...this.pools.values(), ...this.providers.values(), ...this.routes.values()]) {
      if (series.points.length && !series.points.at(-1).gap) series.push(at, { gap: true });
    }
  }

  /** Takes an answer received at `at` (milliseconds); returns what can be said now. */
  take(answer, at) {
    const last = this.answers.at(-1);
    if (last && (last.instance !== answer.instance || answer.uptime_ms <= last.uptime_ms)) this.answers = [];
    const previous = this.answers.at(-1);
    while (this.answers.length > 1 && answer.uptime_ms - this.answers[1].uptime_ms >= WINDOW) this.answers.shift();
    const base = this.answers[0];
    this.answers.push(answer);
    const now = between(answer, base);
    const step = between(answer, previous);
    this.draw(answer, now, step, at);
    return now;
  }

  draw(answer, now, step, at) {
    if (step.seconds == null) return;
    const unhealthy = members(answer).filter(m => m.state !== 'healthy').length;
    this.totals.push(at, {
      rate: step.rate, errors: step.errorRate, share: step.errorShare ?? 0, p50: now.p50, p99: now.p99,
      inflight: now.inflight, unhealthy,
    });
    follow(this.pools, answer.upstreams, at, name => {
      const pool = step.pools.get(name);
      return { rate: pool.rate, failures: pool.failureRate };
    });
    follow(this.providers, answer.providers, at, name => {
      const provider = step.providers.get(name);
      return { rate: provider.rate, failures: provider.failureRate };
    });
    follow(this.routes, answer.routes, at, name => {
      const route = step.routes.get(name);
      return { rate: route.rate, errors: route.errorRate };
    });
  }
}

function follow(all, list, at, values) {
  const names = new Set(list.map(item => item.name));
  for (const name of all.keys()) if (!names.has(name)) all.delete(name);
  for (const name of names) {
    if (!all.has(name)) all.set(name, new Series());
    all.get(name).push(at, values(name));
  }
}

/** Rates between two answers of one run; without an earlier one, rates are null and shares are since the start. */
export function between(now, before) {
  const seconds = before ? (now.uptime_ms - before.uptime_ms) / 1000 : null;
  const per = n => seconds ? n / seconds : null;
  // Members by their id, keys by their name: the same counters.
  const rates = (list, listBefore, part, id) => {
    const earlierOnes = byName(listBefore ?? []);
    return new Map(list.map(pool => {
      const beforeMembers = byName(earlierOnes.get(pool.name)?.[part] ?? [], id);
      const each = new Map();
      let attempts = 0, failures = 0;
      for (const member of pool[part]) {
        const earlier = before ? beforeMembers.get(member[id]) ?? member : { attempts: 0, failures: 0 };
        const made = grown(member.attempts, earlier.attempts);
        const failed = grown(member.failures, earlier.failures);
        attempts += made;
        failures += failed;
        each.set(member[id], { rate: per(made), failureShare: share(failed, made) });
      }
      return [pool.name, { rate: per(attempts), failureRate: per(failures), failureShare: share(failures, attempts), [part]: each }];
    }));
  };
  const pools = rates(now.upstreams, before?.upstreams, 'members', 'id');
  const providers = rates(now.providers, before?.providers, 'keys', 'name');
  const beforeRoutes = byName(before?.routes ?? []);
  const routes = new Map();
  let requests = 0, errors = 0;
  for (const route of now.routes) {
    const earlier = before ? beforeRoutes.get(route.name) ?? route : { requests: 0, errors: 0, targets: [] };
    const made = grown(route.requests, earlier.requests);
    const failed = grown(route.errors, earlier.errors);
    requests += made;
    errors += failed;
    const targets = byName(earlier.targets, 'target');
    const split = route.targets.map(t => ({ target: t.target, requests: grown(t.requests, targets.get(t.target)?.requests ?? 0) }));
    const sum = total(split, t => t.requests);
    const of = before ? earlier.latency : null;
    routes.set(route.name, {
      rate: per(made), errorRate: per(failed), errorShare: share(failed, made),
      p50: before && route.latency ? quantile(route.latency, of, 0.5) : route.p50_us || null,
      p99: before && route.latency ? quantile(route.latency, of, 0.99) : route.p99_us || null,
      split: split.map(t => ({ target: t.target, share: share(t.requests, sum) })),
    });
  }
  const latency = together(now.routes.map(r => r.latency));
  const earlier = before ? together(before.routes.map(r => r.latency)) : null;
  return {
    seconds, pools, providers, routes,
    rate: per(requests), errorRate: per(errors), errorShare: share(errors, requests),
    p50: quantile(latency, earlier, 0.5), p99: quantile(latency, earlier, 0.99),
    inflight: total(now.routes, r => r.inflight),
    connections: total(now.listeners, l => l.connections),
    cpu: before && seconds ? Math.max(0, now.process.cpu_ms - before.process.cpu_ms) / 1000 / seconds : null,
  };
}
