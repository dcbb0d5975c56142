-- Read the status of each room.
--
-- KEYS     each: room
-- ARGV     nothing
-- REPLY    each: status
-- FEED     nothing
--
-- For a key of another type (made by hand), the error replaces the status, so that the client can name the room.

local reply = {}
for i = 1, #KEYS do
  reply[i] = redis.pcall('HGET', KEYS[i], 'status')
end
return reply
