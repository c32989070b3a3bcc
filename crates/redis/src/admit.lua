-- Decides on one request and remembers it, in one atomic step.
--
-- KEYS: the buckets, then the fingerprints. ARGV: the time of the call and the cost; how many buckets there are; how long
-- a fingerprint is remembered; how far clocks may differ and how much longer than needed a bucket is kept (all in
-- milliseconds); then rate and burst of each bucket; then each fingerprint.
--
-- Answers {wait in milliseconds} where the cost is not there, and nothing was written; else {0}, and for each fingerprint
-- 1 where another one is remembered.
--
-- All reads come before the first write, and Redis refuses a write for want of memory, or as a replica, only before a
-- script's first one: what is refused has drawn and remembered nothing.

local at, cost, buckets = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local remembered, skew, margin = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local FIRST_BUCKET = 6
local FIRST_FINGERPRINT = FIRST_BUCKET + 2 * buckets

local held, wait = {}, 0
for i = 1, buckets do
  local rate, burst = tonumber(ARGV[FIRST_BUCKET + 2 * i - 1]), tonumber(ARGV[FIRST_BUCKET + 2 * i])
  local tokens, since = burst, at
  local known = redis.call('GET', KEYS[i])
  if known then
    local had, when = string.match(known, '^(%S+) (%S+)$')
    had, when = tonumber(had), tonumber(when)
    -- A time so far ahead was written by a clock that is wrong: the bucket is as good as unknown. Were it kept, nobody would
    -- be refilled until the right time has caught up.
    if had and when and when - at <= skew then
      -- What was refilled until then is not refilled again for a caller whose clock is behind.
      since = math.max(at, when)
      tokens = math.min(burst, had + math.max(0, at - when) * rate / 1000)
    end
  end
  -- A cost above the burst waits for a full bucket, which then owes.
  local missing = math.min(cost, burst) - tokens
  if missing > 0 then
    wait = math.max(wait, math.ceil(missing * 1000 / math.max(rate, 1)))
  end
  held[KEYS[i]] = { tokens = tokens, since = since, rate = rate, burst = burst }
end
if wait > 0 then
  return { wait }
end

for i = 1, buckets do
  local bucket = held[KEYS[i]]
  bucket.tokens = bucket.tokens - cost
end
for key, bucket in pairs(held) do
  -- A bucket that is full again says as much as none.
  local full = math.ceil((bucket.burst - bucket.tokens) * 1000 / math.max(bucket.rate, 1))
  local ttl = string.format('%.0f', full + margin)
  redis.call('SET', key, string.format('%.17g %.0f', bucket.tokens, bucket.since), 'PX', ttl)
end

local answer = { 0 }
for i = buckets + 1, #KEYS do
  local fingerprint = ARGV[FIRST_FINGERPRINT + i - buckets]
  local known = redis.call('GET', KEYS[i])
  if known then
    answer[#answer + 1] = known == fingerprint and 0 or 1
  else
    redis.call('SET', KEYS[i], fingerprint, 'PX', remembered)
    answer[#answer + 1] = 0
  end
end
return answer
