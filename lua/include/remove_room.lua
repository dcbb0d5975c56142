-- Remove a room with ranks, once the last one has cleared it.
--
-- INCLUDE  numbers, room_id, is_other_type
--
-- KEYS begin with feed, epoch, leases, owned, cleared.

local DAY_MS = '86400000'

-- is_replayed: whether a replay has created it; then a late one must not create it once more. Leaves its change to the
-- caller.
local function remove_room(room, prefix, generation, is_replayed)
  if redis.pcall('HGET', prefix, 'generation') == generation then redis.call('DEL', prefix) end
  redis.call('DEL', room)
  if is_replayed and is_number(generation) then
    if is_other_type(redis.pcall('HLEN', KEYS[5])) then redis.call('DEL', KEYS[5]) end
    redis.call('HSET', KEYS[5], room_id(room), generation)
    redis.call('PEXPIRE', KEYS[5], DAY_MS)
  end
  redis.pcall('ZREM', KEYS[4], room_id(room))
end
