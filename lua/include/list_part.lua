-- The list of the rooms that leases take part in.
--
-- INCLUDE  room_id, is_other_type
--
-- A room is listed once, by the incarnation of one lease that took part in it. Another that takes part has an entry
-- "<incarnation> in <that one>" by its own: it may have a part in any room of that one. So many ranks cost one entry.

-- Lists a room for a lease. Returns whether it was not in the list.
local function list_part(owned, room, holder)
  local listed = redis.pcall('ZSCORE', owned, room_id(room))
  if type(listed) == 'table' then
    listed = not is_other_type(listed) and redis.call('ZSCORE', owned, room_id(room))  -- raises any other error
    redis.call('DEL', owned)
  end
  if not listed then
    redis.call('ZADD', owned, holder, room_id(room))
  elseif listed - holder ~= 0 then
    redis.call('ZADD', owned, holder, holder .. ' in ' .. string.format('%.0f', listed))
  end
  return not listed
end
