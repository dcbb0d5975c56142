-- Give each live room, and its decode prefix length, a full TTL again. Times are milliseconds.
-- A terminal room is left to expire: only its clear is outstanding.
--
-- KEYS     feed, epoch, owned; each: room, prefix
-- ARGV     feed_length, ttl_ms
-- REPLY    feed_id, epoch; each: kept
-- FEED     ttl_ms, status
-- INCLUDE  order, room_id, feed
--
-- kept is 1 if the room is live, 0 if it has ended, -1 if it is absent, -2 if it was owned, too: then no longer.
-- For a key of another type (made by hand), the error replaces kept; so does an unknown status. The other rooms are
-- processed.

local reply = {false, redis.call('HGET', KEYS[2], 'epoch')}
for i = 4, #KEYS, 2 do
  local status = redis.pcall('HGET', KEYS[i], 'status')
  local kept = 0
  if not status then
    local removed = redis.pcall('ZREM', KEYS[3], room_id(KEYS[i]))
    if type(removed) == 'table' and type(redis.pcall('ZCARD', KEYS[3])) ~= 'table' then  -- as in write_room.lua
      redis.call('ZREM', KEYS[3], room_id(KEYS[i]))
    end
    kept = removed == 1 and -2 or -1
  elseif not ORDER[status] then
    kept = status
  elseif status ~= 'Success' and status ~= 'Failed' then
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
    redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3] = KEYS[i], status, ARGV[2]
    changes[n + 4], changes[n + 5] = false, false
    kept, renew = 1, true
  end
  reply[i / 2 + 1] = kept
end
