-- Record why each room fails, without failing it or changing its TTL. The first reason stays; an absent room gets none.
--
-- KEYS     feed; each: room; last: failed
-- ARGV     feed_length, author; each: reason, generation
-- REPLY    feed_id; each: stored
-- FEED     status, reason
-- INCLUDE  order, feed
--
-- author names the caller in failed_by, or is empty. With a generation, the reason is of that one alone. stored is 1 if
-- the room's reason is now this one, so a repeated call has the same reply. For a key of another type (made by hand),
-- the error replaces stored; so does an unknown status. The other rooms are processed.

local reply = {false}
for i = 2, #KEYS - 1 do
  local room, reason, generation = KEYS[i], ARGV[i * 2 - 1], ARGV[i * 2]
  local fields = redis.pcall('HMGET', room, 'status', 'reason', 'generation')
  local status, previous = (generation == '' or fields[3] == generation) and fields[1], fields[2]
  if fields.err then
    reply[i] = fields
  elseif status and not ORDER[status] then
    reply[i] = status
  elseif status and not previous then
    redis.call('HDEL', room, '')  -- nothing, first, as in fail_room.lua
    redis.call('HSET', room, 'reason', reason)
    if ARGV[2] ~= '' then redis.call('HSETNX', room, 'failed_by', ARGV[2]) end
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3] = room, status, false
    changes[n + 4], changes[n + 5] = reason, false
    if status == 'Failed' then
      failures = failures or {}
      failures[room] = redis.call('HMGET', room, 'generation', 'request', 'owner', 'failed_by', 'reason')
      failures[room][6] = 'engine'
    end
    reply[i] = 1
  else
    reply[i] = (status and previous == reason) and 1 or 0
  end
end
