-- Read the status of each room and its TTL, and where the feed stands at this moment. Times are milliseconds.
--
-- KEYS   feed; each: room
-- ARGV   feed_ttl_ms
-- REPLY  feed_id; each: status, left_ms
-- FEED   begun
--
-- A feed that is not there is begun, so that there is a place in it to read on from, and to look for later. A key of
-- another type (made by hand) puts its error in the place of its status.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', '1')[1]
local reply = {last and last[1]}
if not last then
  reply[1] = redis.call('XADD', KEYS[1], '*', 'begun', 'feed')
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
for i = 2, #KEYS do
  reply[i * 2 - 2] = redis.pcall('HGET', KEYS[i], 'status')
  reply[i * 2 - 1] = redis.call('PTTL', KEYS[i])
end
return reply
