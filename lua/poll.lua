-- Read the status of each room.
--
-- KEYS   each: room
-- ARGV   nothing
-- REPLY  each: status
-- FEED   nothing

local reply = {}
for i = 1, #KEYS do
  reply[i] = redis.call('HGET', KEYS[i], 'status')
end
return reply
