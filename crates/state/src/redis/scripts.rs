//! What runs inside Redis: each operation is one script, so that it is atomic there. The rules are those of
//! [`crate::ledger`], with Redis' clock.
//!
//! Keys, `P` being `{prefix}:` (the braces keep all of them in one slot of a cluster):
//!
//! | key | type | |
//! |---|---|---|
//! | `P entry:KEY` | hash | `v` value, `r` version, `x` end in milliseconds since 1970 |
//! | `P index` | sorted set | the keys of all entries, by name |
//! | `P ends` | sorted set | keys of entries with an end, by it |
//! | `P version` | string | the last version |
//! | `P lease:NAME` | hash | `e` epoch, `h` holder (empty: released), `x` end |
//! | `P count:KEY` | string | a counter, with Redis' own expiry |
//! | `P changes` | channel | every change of an entry |
//!
//! Every script gets `P` as its one key and answers with an array of strings, the first of which is `ok` or a refusal.
//! Numbers are exact up to 2^53 and are written with `%.0f`, for Lua would write large ones as `1e+15`.

/// The beginning of every script.
const COMMON: &str = r"
local P = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end

local function next_version()
  local last = tonumber(redis.call('GET', P .. 'version') or '0')
  local version = text(math.max(last + 1, now * 1000))
  redis.call('SET', P .. 'version', version)
  return version
end

local function left(ends)
  if ends and ends ~= '' then return text(math.max(0, tonumber(ends) - now)) end
  return '-'
end

local function remove(key)
  redis.call('DEL', P .. 'entry:' .. key)
  redis.call('ZREM', P .. 'index', key)
  redis.call('ZREM', P .. 'ends', key)
  redis.call('PUBLISH', P .. 'changes', 'D ' .. next_version() .. ' ' .. key)
end

-- Removes what has ended, not too much at a time. Returns whether there may be more.
local function expire()
  local keys = redis.call('ZRANGEBYSCORE', P .. 'ends', '-inf', text(now), 'LIMIT', 0, 100)
  for _, key in ipairs(keys) do remove(key) end
  return #keys == 100
end

-- Value, version and end of an entry, unless it has ended.
local function find(key)
  local row = redis.call('HMGET', P .. 'entry:' .. key, 'v', 'r', 'x')
  if not row[2] or (row[3] and row[3] ~= '' and tonumber(row[3]) <= now) then return nil end
  return row
end

-- The refusal of a guard: expectation ('any', 'absent' or a version), lease and epoch ('' for none).
local function refusal(key, expect, lease, epoch)
  if lease ~= '' then
    local row = redis.call('HMGET', P .. 'lease:' .. lease, 'e', 'h')
    if row[1] ~= epoch or row[2] == '' then return {'fenced', row[1] or ''} end
  end
  if expect == 'any' then return nil end
  local row = find(key)
  local current = row and row[2] or ''
  if (expect == 'absent' and current == '') or expect == current then return nil end
  return {'conflict', current}
end
";

/// KEY → `ok [value version left]`
pub(super) const GET: &str = r"
local row = find(ARGV[1])
if not row then return {'ok'} end
return {'ok', row[1], row[2], left(row[3])}
";

/// PREFIX → `ok version (key value version left)…`
pub(super) const LIST: &str = r"
local keys
if ARGV[1] == '' then
  keys = redis.call('ZRANGEBYLEX', P .. 'index', '-', '+')
else
  keys = redis.call('ZRANGEBYLEX', P .. 'index', '[' .. ARGV[1], '(' .. ARGV[1] .. '\255')
end
local answer = {'ok', redis.call('GET', P .. 'version') or '0'}
for _, key in ipairs(keys) do
  local row = find(key)
  if row then
    local n = #answer
    answer[n + 1] = key
    answer[n + 2] = row[1]
    answer[n + 3] = row[2]
    answer[n + 4] = left(row[3])
  end
end
return answer
";

/// KEY EXPECT LEASE EPOCH VALUE TTL → `ok version`
pub(super) const PUT: &str = r"
expire()
local key, value, ttl = ARGV[1], ARGV[5], ARGV[6]
local refused = refusal(key, ARGV[2], ARGV[3], ARGV[4])
if refused then return refused end
local version, ends = next_version(), ''
if ttl ~= '' then
  ends = text(now + tonumber(ttl))
  redis.call('ZADD', P .. 'ends', ends, key)
else
  redis.call('ZREM', P .. 'ends', key)
end
redis.call('HSET', P .. 'entry:' .. key, 'v', value, 'r', version, 'x', ends)
redis.call('ZADD', P .. 'index', 0, key)
redis.call('PUBLISH', P .. 'changes', 'P ' .. version .. ' ' .. left(ends) .. ' ' .. key .. '\n' .. value)
return {'ok', version}
";

/// KEY EXPECT LEASE EPOCH → `ok existed`
pub(super) const DELETE: &str = r"
expire()
local key = ARGV[1]
local refused = refusal(key, ARGV[2], ARGV[3], ARGV[4])
if refused then return refused end
if redis.call('EXISTS', P .. 'entry:' .. key) == 0 then return {'ok', '0'} end
local existed = find(key) and '1' or '0'
remove(key)
return {'ok', existed}
";

/// NAME HOLDER TTL → `ok epoch`
pub(super) const ACQUIRE: &str = r"
local lease = P .. 'lease:' .. ARGV[1]
local row = redis.call('HMGET', lease, 'e', 'h', 'x')
local epoch
if row[1] and row[2] ~= '' and tonumber(row[3]) > now then
  if row[2] ~= ARGV[2] then return {'held', row[2], left(row[3])} end
  epoch = row[1]
else
  epoch = text(math.max(tonumber(row[1] or '-1') + 1, now))
end
redis.call('HSET', lease, 'e', epoch, 'h', ARGV[2], 'x', text(now + tonumber(ARGV[3])))
return {'ok', epoch}
";

/// NAME HOLDER EPOCH TTL → `ok`
pub(super) const RENEW: &str = r"
local lease = P .. 'lease:' .. ARGV[1]
local row = redis.call('HMGET', lease, 'e', 'h')
if row[1] ~= ARGV[3] or row[2] ~= ARGV[2] then return {'fenced', row[1] or ''} end
redis.call('HSET', lease, 'x', text(now + tonumber(ARGV[4])))
return {'ok'}
";

/// NAME HOLDER EPOCH → `ok`
pub(super) const RELEASE: &str = r"
local lease = P .. 'lease:' .. ARGV[1]
local row = redis.call('HMGET', lease, 'e', 'h')
if row[1] == ARGV[3] and row[2] == ARGV[2] then redis.call('HSET', lease, 'h', '') end
return {'ok'}
";

/// NAME → `ok [epoch [holder left]]`
pub(super) const LEASE: &str = r"
local row = redis.call('HMGET', P .. 'lease:' .. ARGV[1], 'e', 'h', 'x')
if not row[1] then return {'ok'} end
if row[2] == '' or tonumber(row[3]) <= now then return {'ok', row[1]} end
return {'ok', row[1], row[2], left(row[3])}
";

/// (KEY DELTA CEILING TTL)… → `ok value…`
pub(super) const ADD: &str = r"
local MOST = 9007199254740992
local changed, answer = {}, {'ok'}
for i = 1, #ARGV, 4 do
  local key, delta, ceiling, ttl = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
  local counter = changed[key]
  if not counter then
    local value = redis.call('GET', P .. 'count:' .. key)
    counter = {value = tonumber(value or '0'), was = value or '0', new = not value, ttl = ttl}
  end
  -- Not value + delta, which may be past what is exact.
  if ceiling ~= '' and delta > 0 and counter.value > tonumber(ceiling) - delta then
    return {'ceiling', key, counter.was, ceiling}
  end
  local value = counter.value
  if delta > MOST - value then value = MOST
  elseif delta < -value then value = 0
  else value = value + delta end
  if delta ~= 0 then
    counter.value = value
    changed[key] = counter
  end
  answer[#answer + 1] = text(value)
end
for key, counter in pairs(changed) do
  if counter.new and counter.ttl ~= '' then
    redis.call('SET', P .. 'count:' .. key, text(counter.value), 'PX', counter.ttl)
  else
    redis.call('SET', P .. 'count:' .. key, text(counter.value), 'KEEPTTL')
  end
end
return answer
";

/// → `ok WAIT`: removes what has ended; how long until something does, `-`: nothing will.
pub(super) const EXPIRE: &str = r"
if expire() then return {'ok', '0'} end
local first = redis.call('ZRANGE', P .. 'ends', 0, 0, 'WITHSCORES')
return {'ok', left(first[2])}
";

/// A whole script.
pub(super) fn script(body: &str) -> redis::Script {
    redis::Script::new(&format!("{COMMON}{body}"))
}
