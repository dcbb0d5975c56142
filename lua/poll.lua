-- Read the status of each room.
--
-- KEYS     each: room
-- ARGV     nothing
-- REPLY    each: status
-- FEED     nothing
--
-- A key of another type (made by hand) puts its error in the place of its status, so that the room can be named.

local reply = {}
for i = 1, #KEYS do
  reply[i] = redis.pcall('HGET', KEYS[i], 'status')
end
return reply
