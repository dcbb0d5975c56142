-- The names of a rank's fields: its status, its last status once it has cleared, its decode prefix length. Without a
-- rank, the second name is empty: no room has such a field. The lease under which a rank holds its part of a room is in
-- by:<rank>; a room without ranks has one in incarnation.

local function rank_fields(rank)
  if rank == '' then return 'status', '', 'length' end
  return 'status:' .. rank, 'cleared:' .. rank, 'length:' .. rank
end
