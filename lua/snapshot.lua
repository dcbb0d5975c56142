-- Read the status of each room and its TTL, and where the feed stands at this moment. Times are milliseconds.
--
-- KEYS   feed; each: room
-- ARGV   feed_ttl_ms, rank
-- REPLY  feed_id; each: status, left_ms
-- FEED   begun
--
-- A feed that is not there is begun, so that there is a place in it to read on from, and to look for later. For a rank
-- it is its view, as in view.lua. A key of another type (made by hand) puts its error in the place of its status.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', '1')[1]
local reply = {last and last[1]}
local rank = ARGV[2]
if not last then
  reply[1] = redis.call('XADD', KEYS[1], '*', 'begun', 'feed')
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
for i = 2, #KEYS do
  local status
  if rank == '' then
    status = redis.pcall('HGET', KEYS[i], 'status')
  else
    local there = redis.pcall('HMGET', KEYS[i], 'status', 'status:' .. rank, 'cleared:' .. rank)
    status = there.err and there or there[2]
    if there[1] == 'Failed' and not there[3] then status = 'Failed' end
  end
  reply[i * 2 - 2] = status
  reply[i * 2 - 1] = redis.call('PTTL', KEYS[i])
end
return reply
