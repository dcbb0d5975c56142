-- Read what is known of each room's failure, and the position of the stream of failures at this moment. Times are
-- milliseconds.
--
-- KEYS     feed, failed; each: room
-- ARGV     feed_ttl_ms
-- REPLY    feed_id; each: status, generation, request, owner, by, reason
-- FEED     begun
-- INCLUDE  feed_position
--
-- feed_id is the last id of the stream of failures. A missing one is begun at the feed's last id, by the entry begun,
-- so that its next entry has a higher one. With an empty feed_ttl_ms nothing is written, and the position of a missing
-- stream is 0-0. For a key of another type (made by hand), the error replaces the status.

local last = redis.pcall('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')
local position = last[1] and last[1][1]
if not position and ARGV[1] == '' then
  position = '0-0'
elseif not position then
  position = feed_position(ARGV[1])
  redis.call('DEL', KEYS[2])  -- of another type, or emptied by hand
  redis.call('XADD', KEYS[2], position, 'begun', 'failures')
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
local reply = {position}
for i = 3, #KEYS do
  local fields = redis.pcall('HMGET', KEYS[i], 'status', 'generation', 'request', 'owner', 'failed_by', 'reason')
  for k = 1, 6 do reply[#reply + 1] = fields[k] or (k == 1 and fields.err and fields) or false end
end
return reply
