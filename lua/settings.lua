-- Agree on the settings of a namespace: the first user writes them, everybody reads them and renews their TTL.
-- An empty argument adopts what is there, else the default. A user who disagrees writes nothing and gets to
-- see what is there. Times are milliseconds.
--
-- KEYS   settings
-- ARGV   ttl_ms, schema, policy, shards, mode, feed
-- REPLY  schema, policy, shards, mode, feed
-- FEED   nothing

local NAMES = {'schema', 'policy', 'shards', 'mode', 'feed'}
local DEFAULTS = {'2', 'compat', '1', 'none', '100000'}
local there = redis.call('HMGET', KEYS[1], 'schema', 'policy', 'shards', 'mode', 'feed')
local agreed = {}

for i = 1, #NAMES do
  local asked = ARGV[i + 1]
  if there[i] and asked ~= '' and asked ~= there[i] then return there end
  agreed[i] = there[i] or (asked ~= '' and asked) or DEFAULTS[i]
end
for i = 1, #NAMES do
  if not there[i] then redis.call('HSET', KEYS[1], NAMES[i], agreed[i]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])

-- Whom the server's ACL denies what the other scripts do after their first write must hear so now: there, it would
-- leave rooms that have changed without a word in the feed. These change nothing; this key is none for XADD, which
-- says so (fakeredis in words that are no string; it denies nobody).
redis.call('HSETNX', KEYS[1], 'schema', agreed[1])
redis.call('HDEL', KEYS[1], '')
if agreed[5] ~= '0' then
  local tried = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', '*', 'tried', '')
  if type(tried.err) == 'string' and not string.find(tried.err, 'WRONGTYPE', 1, true) then return tried end
end
return agreed
