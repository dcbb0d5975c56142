-- The part of a room with ranks that the caller's rank holds under its lease.
--
-- INCLUDE  caller, list_part

-- Adds to fields what it writes. A rank that is at Success or Failed, or has no lease, takes no part.
local function take_part(room, fields)
  local status = fields[status_field]
  if status == 'Success' or status == 'Failed' then
    if fields[lease_field] then redis.call('HDEL', room, lease_field) end
  elseif status and owner ~= '' and fields[lease_field] ~= incarnation then
    fields[lease_field] = incarnation
    redis.call('HSET', room, lease_field, incarnation)
    if list_part(KEYS[4], room, incarnation) then redis.call('PEXPIRE', KEYS[4], ARGV[4]) end
  end
end
