-- Note why each room fails, without failing it. The first cause stays; an absent room keeps none.
-- The room's TTL stays as it is.
--
-- KEYS   each: room
-- ARGV   each: reason
-- REPLY  each: stored
-- FEED   nothing
--
-- stored is 1 when the room's reason is now this one: a repeated call answers as the first did.

local reply = {}
for i = 1, #KEYS do
  local room, stored = KEYS[i], 0
  if redis.call('EXISTS', room) == 1 then
    redis.call('HSETNX', room, 'reason', ARGV[i])
    if redis.call('HGET', room, 'reason') == ARGV[i] then stored = 1 end
  end
  reply[i] = stored
end
return reply
