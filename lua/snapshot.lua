-- Read the status of each room and its TTL, and where the feed stands at this moment. Times are milliseconds.
--
-- KEYS   feed; each: room
-- ARGV   feed_length
-- REPLY  feed_id; each: status, left_ms
-- FEED   begun
-- USES   feed
--
-- A feed that is not there is begun, so that there is a place in it to read on from, and to look for later. A key of
-- another type (made by hand) puts its error in the place of its status.

local reply = {}
for i = 2, #KEYS do
  reply[i * 2 - 2] = redis.pcall('HGET', KEYS[i], 'status')
  reply[i * 2 - 1] = redis.call('PTTL', KEYS[i])
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', '1')[1]
if not last then
  entry, rooms_in_entry = {'begun', 'feed'}, 1
end
reply[1] = last and last[1] or announced()
return reply
