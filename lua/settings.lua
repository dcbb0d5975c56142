-- Agree on the settings of a namespace: the first caller writes them, every other reads them and renews their TTL.
-- An empty argument adopts the stored value, else the default. If another argument differs, nothing is written, and the
-- reply has the stored values. Times are milliseconds.
--
-- KEYS     settings
-- ARGV     ttl_ms, schema, policy, shards, mode, feed_length
-- REPLY    schema, policy, shards, mode, feed_length
-- FEED     nothing

local NAMES = {'schema', 'policy', 'shards', 'mode', 'feed_length'}
local DEFAULTS = {'3', 'compat', '1', 'none', '100000'}
local stored = redis.call('HMGET', KEYS[1], 'schema', 'policy', 'shards', 'mode', 'feed_length')
local agreed = {}

for i = 1, #NAMES do
  local asked = ARGV[i + 1]
  if stored[i] and asked ~= '' and asked ~= stored[i] then return stored end
  agreed[i] = stored[i] or (asked ~= '' and asked) or DEFAULTS[i]
end
redis.call('HDEL', KEYS[1], '')  -- nothing, first, as in fail_room.lua: what was lost comes back at maxmemory
for i = 1, #NAMES do
  if not stored[i] then redis.call('HSET', KEYS[1], NAMES[i], agreed[i]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])

-- An ACL that denies a command which the other scripts call after their first write must fail here: there, it would
-- leave changed rooms without an entry in the feed. These calls, as HDEL above, change nothing; XADD fails with
-- WRONGTYPE (in fakeredis, which has no ACL, with an error that is not a string).
redis.call('HSETNX', KEYS[1], 'schema', agreed[1])
if agreed[5] ~= '0' then
  local tried = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', '*', 'tried', '')
  if type(tried.err) == 'string' and not string.find(tried.err, 'WRONGTYPE', 1, true) then return tried end
end
return agreed
